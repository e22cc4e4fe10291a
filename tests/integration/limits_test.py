"""The page of limits says what the coordinator's --help says: every flag, with its default."""

import re
import subprocess
import unittest

from cluster import BIN_DIR, REPOSITORY

UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def in_help():
    """{flag: default as --help writes it} of the limits."""
    text = subprocess.run([str(BIN_DIR / "turbofleet-coordinator"), "--help"], check=True, capture_output=True,
                          text=True).stdout
    limits = text[text.index("\nLimits:"):]
    return dict(re.findall(r"^\s+(--[a-z-]+) [^=\n]*=(\w+)", limits, re.MULTILINE))


def in_page():
    """{flag: default as the page writes it}; a cell may go on in words after the flag."""
    page = (REPOSITORY / "docs" / "operating" / "limits.md").read_text()
    return dict(re.findall(r"^\|[^|\n]*\| `(--[a-z-]+)`[^|\n]*\| ([^|\n]*?) \|", page, re.MULTILINE))


def is_the_same(flag, written):
    """Whether a default of the page, such as "256 MiB" or "5 min", is that of the flag, "268435456" or "5m"."""
    number = re.fullmatch(r"([\d,]+) ?(KiB|MiB|GiB|)", written)
    if number:
        return flag == str(int(number[1].replace(",", "")) * UNITS[number[2]])
    return flag == re.sub(r" (s|min|h)$", lambda unit: unit[1][0], written)


class LimitsTest(unittest.TestCase):
    def test_the_page_has_every_flag_with_its_default(self):
        flags, page = in_help(), in_page()
        self.assertEqual(flags.keys(), page.keys())
        self.assertEqual({flag: page[flag] for flag, default in flags.items() if not is_the_same(default, page[flag])}, {})


if __name__ == "__main__":
    unittest.main()
