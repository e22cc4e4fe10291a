"""Makes the goldens of the CLIP tokenizer from the reference implementation.

    pip install transformers==5.23.0
    pip download --no-deps open_clip_torch==3.3.0
    python make_tokenizer_goldens.py open_clip_torch-3.3.0-py3-none-any.whl

writes, beside this script in clip_tokenizer/:

    merges.txt.gz  the merges of CLIP's vocabulary, from open_clip (MIT, see NOTICE there); the vocabulary follows
                   from them: 256 bytes, 256 bytes that end a word, a token per merge, and the two markers
    goldens.json   prompts; the configs of folders as they were published over the years; and for each the ids between
                   the begin and the end token, at most 75, with the number of ids that were cut

Left out are prompts where the two Unicode versions differ, by design of nobody: code points that Unicode 15.0 (ICU 72)
does not know, and the combining marks that came after Unicode 10, which the reference does not put in order.
"""

import gzip
import io
import json
import pathlib
import random
import sys
import tempfile
import unicodedata
import zipfile

from transformers import CLIPTokenizer

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
TOKENS_MAX = 75


def byte_characters():
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printed]
    return [chr(code) for code in printed] + [chr(256 + n) for n in range(len(hidden))]


def flags(content, normalized=True, **more):
    return dict(content=content, lstrip=False, normalized=normalized, rstrip=False, single_word=False, **more)


def styles():
    config = dict(add_prefix_space=False, do_lower_case=True, errors="replace", model_max_length=77,
                  tokenizer_class="CLIPTokenizer")
    typed = lambda content: dict(flags(content), __type="AddedToken")
    old = dict(bos_token=typed(BEGIN), eos_token=typed(END), unk_token=typed(END))
    old_map = dict(bos_token=flags(BEGIN), eos_token=flags(END), unk_token=flags(END))
    plain = dict(bos_token=BEGIN, eos_token=END, unk_token=END, pad_token=END)
    listed = {"0": flags("!", False, special=True), "49406": flags(BEGIN, special=True),
              "49407": flags(END, special=True)}
    return {
        "plain": (dict(config, **plain), plain),
        "pad with the end": (dict(config, **old, pad_token=END), dict(old_map, pad_token=END)),
        "pad with !": (dict(config, **old, pad_token="!"), dict(old_map, pad_token="!")),
        "pad with !, listed": (dict(config, **plain | dict(pad_token="!"), added_tokens_decoder=listed),
                               dict(old_map, pad_token="!")),
    }


def is_common(prompt):
    """Whether all Unicode versions in play agree about every character."""
    for character in prompt:
        if unicodedata.category(character) in ("Cn", "Cs"):
            return False
        if unicodedata.combining(character) and unicodedata.ucd_3_2_0.category(character) == "Cn":
            return False  # Stricter than needed: Unicode 3.2 knows fewer marks than 10.
    return True


def prompts():
    draw = random.Random(20240501)
    result = ["", " ", "\n", "a", "!", "!!", "! !! !!!", "a!b", "wow!!!", "!!!!!!!!!!!!", "it's", "IT'S", "it''s", "'s", "''s",
              "'S 'T 'RE 'VE 'M 'LL 'D", "we'll they've I'm you'd don't he'st", "'", "' s", "rock'n'roll", "O\u2019Neil\u2019s",
              END, BEGIN, "<|endoftext|>!!", "a<|endoftext|>b", "<|ENDOFTEXT|>", "<|EndOfText|>'s", "x<|startoftext|>'s",
              "<|STARTOFTEXT|>|>", "!<|ENDOFTEXT|>!'s", "<|endoftext", "|>", "<|endof text|>", "<|endoftext|>" * 80, "! " * 90,
              "a\0b", "\x01\x02\x1b[31m", "a\u00a0b\u2028c\u0085d\x1ce\x0bf\u200bg\u180eh", "\ufeffa", "tab\there",
              "\u0391\u03a3 \u039f\u0394\u039f\u03a3", "\u0130stanbul I\u0131", "\u1e9e \u0149 \u01f0", "\u212a\u212b\u2126",
              "e\u0301 \u0301e", "a\u0301\u0316\u0334 a\u0334\u0316\u0301", "!\u0338 <|endoftext|\u0338>", "\u1100\u1161\u11a8 \uac01",
              "\ufb01 \uff21\uff22\uff11", "\u00bd\u00b2\u0663\u2460\u2167", "2024 3.14 1,000 0x7f", "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
              "\u0939\u093f\u0928\u094d\u0926\u0940", "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1e9\U0001f1ea",
              "\u732b\u306e\u7d75\u3092\u63cf\u304f", "\u4e00\u53ea\u72d7\uff0c\u5728\u8349\u5730\u4e0a\u3002", "\U00020000\U0001d400",
              "a" * 1000, "ab" * 700, "x " * 75, "x " * 76, "x " * 77, "lorem ipsum dolor " * 60, "\U0001f600" * 100, "\u0301" * 60,
              "-" * 300, "=" * 77, "9" * 120]
    subjects = "a cat|the Eiffel Tower|an astronaut|2 red apples|Mona Lisa's smile|a caf\u00e9|K\u00f6ln|na\u00efve painter|robot #7".split("|")
    styles_ = "oil painting|8k, HDR|(masterpiece:1.2)|by Van Gogh|unreal engine 5|black & white|isn't blurry!|50mm f/1.8|--ar 16:9".split("|")
    for _ in range(500):
        words = [draw.choice(subjects)] + draw.sample(styles_, draw.randint(0, 6))
        text = draw.choice([", ", " ", "; ", "  ", ",", "!\n"]).join(words)
        result.append(draw.choice([str, str.upper, str.title, str.swapcase])(text))
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!'.,:;-_<|>/\\ \t\n"
    ranges = [(0x20, 0x7e), (0xa0, 0x17f), (0x300, 0x36f), (0x370, 0x52f), (0x590, 0x6ff), (0x900, 0xdff), (0x1e00, 0x206f),
              (0x2100, 0x2bff), (0x3040, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0x1f300, 0x1faff), (0, 0x2ffff)]
    pieces = [END, BEGIN, END.upper(), "'s", "'LL", "!", "!!", " ", "<|", "|>", "\u0301", "\u0327", "cat", "CAT", "7", "\u00a0"]
    while len(result) < 2600:
        kind = draw.randrange(4)
        if kind == 0:
            text = "".join(draw.choice(letters) for _ in range(draw.randint(1, 60)))
        elif kind == 1:
            low, high = draw.choice(ranges)
            text = "".join(chr(draw.randint(low, high)) for _ in range(draw.randint(1, 24)))
        elif kind == 2:
            text = "".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randint(1, 24)))
        else:
            text = "".join(draw.choice(pieces) for _ in range(draw.randint(1, 16)))
        if is_common(text):
            result.append(text)
    return result


def main(wheel):
    here = pathlib.Path(__file__).parent / "clip_tokenizer"
    here.mkdir(exist_ok=True)
    packed = zipfile.ZipFile(wheel).read("open_clip/bpe_simple_vocab_16e6.txt.gz")
    merges = gzip.decompress(packed).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges_text = "#version: 0.2\n" + "\n".join(merges) + "\n"
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(merges_text.encode())
    (here / "merges.txt.gz").write_bytes(buffer.getvalue())
    characters = byte_characters()
    tokens = characters + [c + "</w>" for c in characters] + ["".join(m.split()) for m in merges] + [BEGIN, END]

    texts = prompts()
    goldens = {"prompts": texts, "styles": []}
    base = None
    for name, (config, special_tokens_map) in styles().items():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
            (folder / "merges.txt").write_text(merges_text)
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            (folder / "special_tokens_map.json").write_text(json.dumps(special_tokens_map))
            reference = CLIPTokenizer.from_pretrained(folder)
        whole = [reference(text).input_ids[1:-1] for text in texts]
        for text, ids in zip(texts, whole):
            cut = reference(text, padding="max_length", truncation=True, max_length=77).input_ids
            padding = reference.pad_token_id
            assert cut == [49406, *ids[:TOKENS_MAX], 49407] + [padding] * (TOKENS_MAX - len(ids[:TOKENS_MAX]))
        rows = [[max(0, len(ids) - TOKENS_MAX), *ids[:TOKENS_MAX]] for ids in whole]
        base = base or rows
        goldens["styles"].append({
            "name": name, "config": config, "special_tokens_map": special_tokens_map, "padding": reference.pad_token_id,
            # By the prompt's index, [ids cut, ids...]: all of the first style, of the others where they differ from it.
            "rows": {str(i): row for i, row in enumerate(rows) if base is rows or row != base[i]},
        })
    (here / "goldens.json").write_text(json.dumps(goldens, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
