"""Checks the tree by tidy.py, and tidy.py by small trees that each break one rule."""

import pathlib
import unittest

import tidy

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def words(*parts):
    """A word that must not stand in this file."""
    return "".join(parts)


class TreeTest(unittest.TestCase):
    """One test for each rule, so that a failure says which."""

    @classmethod
    def setUpClass(cls):
        cls.tree = tidy.read_tree(ROOT)

    def assert_none(self, findings):
        self.assertFalse(findings, "\n" + "\n".join(map(str, findings)))

    def test_the_tree_was_read(self):
        self.assertIn("common/status.h", self.tree.files)
        self.assertFalse([path for path in self.tree.files if path.startswith(("build/", ".git/"))])

    def test_layers(self):
        self.assert_none(tidy.check_layers(self.tree, (HERE / "layers.txt").read_text()))

    def test_torch_wall(self):
        self.assert_none(tidy.check_torch_wall(self.tree))

    def test_dead_tests(self):
        self.assert_none(tidy.check_dead_tests(self.tree))

    def test_words(self):
        self.assert_none(tidy.check_words(self.tree))

    def test_columns(self):
        self.assert_none(tidy.check_columns(self.tree))

    def test_function_length(self):
        self.assert_none(tidy.check_function_length(self.tree))

    def test_blobs(self):
        self.assert_none(tidy.check_blobs(self.tree))

    def test_file_ends(self):
        self.assert_none(tidy.check_file_ends(self.tree))

    def test_headers(self):
        self.assert_none(tidy.check_headers(self.tree))

    def test_links(self):
        self.assert_none(tidy.check_links(self.tree))

    def test_every_rule_of_the_layers_has_a_folder(self):
        layers = tidy.Layers((HERE / "layers.txt").read_text())
        used = {layers.rule_of(path) for path in self.tree.paths(*tidy.CPP)}
        self.assertEqual(set(layers.rules) - used, set())


class CheckTest(unittest.TestCase):
    """Every rule must be able to fail, and must not fail on what is right."""

    def lines(self, check, *arguments, **files):
        """Where `check` finds something in a tree of files, given by names with __ for / and _D_ for a dot."""
        tree = tidy.Tree({name.replace("__", "/").replace("_D_", "."): text for name, text in files.items()})
        return [f"{finding.path}:{finding.line}" for finding in check(tree, *arguments)]

    def test_layers(self):
        table = """
            @net = grpc grpcpp   # a comment
            core: std absl core common/status.h !absl/time/clock.h !thread
            core/shell: std core @net
            top/main.cc: std
        """
        def found(header, path="core__a_D_cc"):
            return self.lines(tidy.check_layers, table, **{path: f"// why\n#include {header}\n"})
        for header in ('"core/b.h"', "<vector>", '"absl/time/time.h"', '"common/status.h"'):
            self.assertEqual(found(header), [], header)
        for header in ('"grpcpp/server.h"', "<thread>", '"absl/time/clock.h"', '"common/log.h"', "<unistd.h>",
                       '"corex/b.h"', "<vectors>", '"torch/torch.h"'):
            self.assertEqual(found(header), ["core/a.cc:2"], header)
        self.assertEqual(found('"grpcpp/server.h"', "core__shell__a_D_h"), [])
        self.assertEqual(found('"absl/time/time.h"', "core__shell__a_D_h"), ["core/shell/a.h:2"])
        self.assertEqual(found("<vector>", "elsewhere__a_D_h"), ["elsewhere/a.h:1"])
        self.assertEqual(found("<vector>", "corex__a_D_h"), ["corex/a.h:1"])

    def test_layers_refuse_a_broken_table(self):
        for table in ("core std", "core: @nothing", "core: std\ncore: absl"):
            with self.assertRaises(ValueError):
                tidy.Layers(table)

    def test_torch_wall_looks_through_our_own_headers(self):
        files = {"engine__a_D_h": '#include "ATen/ATen.h"\n', "net__b_D_h": '#include "grpcpp/server.h"\n',
                 "app__c_D_cc": '#include "engine/a.h"\n#include "net/b.h"\n',
                 "app__d_D_cc": '#include "net/b.h"\n#include <vector>\n'}
        self.assertEqual(self.lines(tidy.check_torch_wall, **files), ["app/c.cc:1"])

    def test_dead_tests(self):
        files = {"tests__a__CMakeLists_D_txt": "turbofleet_test(x SOURCES one_test.cc two_test.cc)\n"
                                               "# three_test.cc\nintegration_test(five_test 10)\n",
                 "tests__a__one_test_D_cc": "", "tests__a__b__two_test_D_cc": "", "tests__a__three_test_D_cc": "",
                 "tests__a__four_test_D_py": "", "tests__a__five_test_D_py": "", "tests__a__ne_test_D_cc": ""}
        self.assertEqual(self.lines(tidy.check_dead_tests, **files),
                         ["tests/a/four_test.py:1", "tests/a/ne_test.cc:1", "tests/a/three_test.cc:1"])
        switched_off = {"tests__CMakeLists_D_txt": "a_test.cc", "tests__a_test_D_cc": "TEST(A, DISABLED_B) {}\n"}
        self.assertEqual(self.lines(tidy.check_dead_tests, **switched_off), ["tests/a_test.cc:1"])
        skipped = {"tests__CMakeLists_D_txt": "a_test.cc",
                   "tests__a_test_D_cc": "  GTEST_SKIP();\n  GTEST_SKIP() << \"this processor has no AVX-512\";\n"}
        self.assertEqual(self.lines(tidy.check_dead_tests, **skipped), ["tests/a_test.cc:1"])

    def test_words(self):
        bad = {"a.cc": [words("// TO", "DO: later"), words("std::normal_distri", "bution<float> d;"),
                        words("using name", "space std;"), "#include <format>", words('"/ho', 'me/anna/x"')],
               "a.md": [words("FIX", "ME"), words("run /ro", "ot/x")],
               "tests/a_test.cc": [words("std::this_thread::sleep_", "for(x);"), words("absl::Sleep", "For(x);")],
               "tests/a.py": [words("time.sle", "ep(1)")],
               "deploy/a.sh": [words("cd /wo", "rk/x")]}
        for path, cases in bad.items():
            for case in cases:
                self.assertEqual(len(tidy.check_words(tidy.Tree({path: case}))), 1, f"{path}: {case}")
        good = {"a.cc": ["using std::string;", "using namespace std::string_view_literals;", "TODOS", "std::mt19937 r;",
                         words("absl::Sleep", "For(x);"), '"$HOME/x"', "https://a.example/root/x", "docs/work/x"],
                "tests/a.cc": ["SleepForever", "clock.Sleep(x)"]}
        for path, cases in good.items():
            for case in cases:
                self.assertEqual(tidy.check_words(tidy.Tree({path: case})), [], f"{path}: {case}")

    def test_columns(self):
        self.assertEqual(self.lines(tidy.check_columns, a_D_cc="\n" + "x" * 121 + "\n", b_D_cc="x" * 120), ["a.cc:2"])
        self.assertEqual(self.lines(tidy.check_columns, a_D_cc="// " + "\u00e9" * 117), [])

    def test_function_length(self):
        def function(lines, head="int F(int a)"):
            return head + " {\n" + "  a();\n" * (lines - 2) + "}\n"
        for head in ("int F(int a)", "A::A(int a)\n    : a_(a), b_{b}", "auto F(int a) -> int", "TEST(A, B)",
                     "template <typename T>\nstd::map<int, T> F(T a) const noexcept", "explicit operator bool()",
                     "static int F(std::function<int(int)> f = [](int) { return 1; })"):
            extra = head.count("\n")
            self.assertEqual(self.lines(tidy.check_function_length, a_D_cc=function(70 - extra, head)), [], head)
            self.assertEqual(self.lines(tidy.check_function_length, a_D_cc=function(71 - extra, head)), ["a.cc:1"], head)
        self.assertEqual(self.lines(tidy.check_function_length, a_D_cc=function(30) * 5), [])
        wrapped = "namespace a {\nclass B : public C {\n" + function(30) * 5 + "};\n}\n"
        self.assertEqual(self.lines(tidy.check_function_length, a_D_cc=wrapped), [])
        self.assertEqual(self.lines(tidy.check_function_length, a_D_cc="namespace a {\n" + function(80) + "}\n"), ["a.cc:2"])
        table = "const std::map<int, int> kTable = {\n" + "  {1, 2},\n" * 100 + "};\n"
        self.assertEqual(self.lines(tidy.check_function_length, a_D_cc=table), [], "a table is no function")
        tricky = function(30).replace("a();", "a('{', \"}{\", R\"x({{)x\");  // {", 1) * 5
        self.assertEqual(self.lines(tidy.check_function_length, a_D_cc=tricky), [])
        halves = "#define A {\n#define B \\\n  {\n" + function(30) * 5
        self.assertEqual(self.lines(tidy.check_function_length, a_D_cc=halves), [])
        lambdas = function(71).replace("a();", "a([&](int x) { return x; });", 1)
        self.assertEqual(self.lines(tidy.check_function_length, a_D_cc=lambdas), ["a.cc:1"])

    def test_blobs(self):
        tree = {"docs__images__a_D_png": b"x" * 400_000, "b_D_bin": b"x" * 400_000, "c_D_bin": b"x" * 300_000}
        self.assertEqual(self.lines(tidy.check_blobs, **tree), ["b.bin:1"])

    def test_file_ends(self):
        files = {"a_D_cc": "x\n", "b_D_cc": "x", "c_D_cc": "x\n\n", "d_D_cc": "x \ny\n", "e_D_cc": "\tx\n", "f_D_md": "x  \n",
                 "g_D_sh": "x\r\n", "h_D_sh": "\tx\n", "i_D_png": b"x", "j_D_h": ""}
        self.assertEqual(sorted(self.lines(tidy.check_file_ends, **files)),
                         ["b.cc:1", "c.cc:3", "d.cc:1", "e.cc:1", "g.sh:1"])

    def test_headers(self):
        files = {"a_D_h": "// Why.\n#pragma once\n", "b_D_h": "// #pragma once\n", "c_D_cc": ""}
        self.assertEqual(self.lines(tidy.check_headers, **files), ["b.h:1"])

    def test_links(self):
        files = {"README_D_md": "[a](docs/a.md) [b](docs) [c](docs/c.md#part)\n[d](https://x.example/y) [e](#part)\n",
                 "docs__a_D_md": "[a](../README.md)\n[b](../docs/a.md) [c](x.md)\n"}
        self.assertEqual(self.lines(tidy.check_links, **files), ["README.md:1", "docs/a.md:2"])

    def test_every_check_takes_part(self):
        checks = {name for name in dir(tidy) if name.startswith("check_")}
        source = (HERE / "tidy.py").read_text().split("def all_checks")[1]
        self.assertEqual({name for name in checks if name + "(" not in source}, set())
        tests = {name for name in dir(TreeTest) if name.startswith("test_")}
        self.assertEqual({name for name in checks if name.replace("check_", "test_") not in tests}, set())


if __name__ == "__main__":
    unittest.main()
