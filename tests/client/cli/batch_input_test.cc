#include "client/cli/batch_input.h"

#include "tests/support/status_matchers.h"
#include "turbofleet/errors.h"

namespace turbofleet::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

std::vector<Row> Rows(InputFormat format, std::string_view text, const Recipe& defaults = {}) {
  const absl::StatusOr<std::vector<Row>> rows = ParseRows(format, text, defaults);
  EXPECT_THAT(rows, IsOk());
  return rows.value_or(std::vector<Row>());
}

std::vector<std::string> Prompts(const std::vector<Row>& rows) {
  std::vector<std::string> prompts;
  for (const Row& row : rows) prompts.push_back(row.error.ok() ? row.prompt : "error");
  return prompts;
}

TEST(BatchInputTest, TextIsOnePromptALine) {
  const std::vector<Row> rows = Rows(InputFormat::kText, "a fox\r\n\n  \t\n  a \"hen\", red \n\xff\nlast");
  EXPECT_THAT(Prompts(rows), ElementsAre("a fox", "  a \"hen\", red ", "error", "last"));
  EXPECT_EQ(rows[3].number, 4);
  EXPECT_THAT(rows[2].error, StatusIs(kInvalid, HasSubstr("prompt: is not UTF-8")));
}

TEST(BatchInputTest, AByteOrderMarkIsNoPartOfTheInput) {
  EXPECT_THAT(Prompts(Rows(InputFormat::kText,
                           "\xef\xbb\xbf"
                           "a fox\n")),
              ElementsAre("a fox"));
  EXPECT_THAT(Prompts(Rows(InputFormat::kCsv, "\xef\xbb\xbfprompt\na fox\n")), ElementsAre("a fox"));
  EXPECT_THAT(Prompts(Rows(InputFormat::kJsonLines, "\xef\xbb\xbf{\"prompt\": \"a fox\"}")), ElementsAre("a fox"));
}

TEST(BatchInputTest, RowsSetFieldsAndKeepTheOthersOfTheCommandLine) {
  Recipe defaults;
  defaults.steps = 3;
  defaults.format = "webp";
  const std::vector<Row> from_json =
      Rows(InputFormat::kJsonLines,
           R"({"prompt": "a", "negative_prompt": "b", "seed": 4294967295, "count": 2, "width": 64, "height": 128,
)"
           R"({"prompt": "a", "negative_prompt": "b", "seed": 4294967295, "count": 2, "width": 64, "height": 128, )"
           R"("steps": 4, "strength": 0.25, "init_image": "x.png", "guidance_scale": 2, "id": 7})",
           defaults);
  const std::vector<Row> from_csv = Rows(InputFormat::kCsv,
                                         "id,prompt,negative_prompt,seed,count,width,height,steps,strength,init_image,"
                                         "guidance_scale\n7,a,b,4294967295,2,64,128,4,0.25,x.png,2\n",
                                         defaults);
  ASSERT_THAT(from_json, SizeIs(2));
  ASSERT_THAT(from_csv, SizeIs(1));
  EXPECT_THAT(from_json[0].error, StatusIs(kInvalid, HasSubstr("line 1: the line is no JSON object")));
  for (const Row& row : {from_json[1], from_csv[0]}) {
    TURBOFLEET_EXPECT_OK(row.error);
    EXPECT_EQ(row.id, "7");
    EXPECT_EQ(row.prompt, "a");
    EXPECT_EQ(row.seed, 4294967295u);
    EXPECT_EQ(row.count, 2);
    EXPECT_EQ(row.recipe.negative_prompt, "b");
    EXPECT_EQ(row.recipe.width, 64);
    EXPECT_EQ(row.recipe.height, 128);
    EXPECT_EQ(row.recipe.steps, 4);
    EXPECT_EQ(row.recipe.strength, 0.25);
    EXPECT_EQ(row.recipe.init_image_path, "x.png");
    EXPECT_EQ(row.recipe.guidance_scale, 2);
    EXPECT_EQ(row.recipe.format, "webp");
  }
  const std::vector<Row> bare = Rows(InputFormat::kJsonLines, R"({"prompt": "a", "steps": null})", defaults);
  EXPECT_EQ(bare.at(0).recipe, defaults);
  const std::vector<Row> empty_field = Rows(InputFormat::kCsv, "prompt,steps\na,\n", defaults);
  TURBOFLEET_EXPECT_OK(empty_field.at(0).error);
  EXPECT_EQ(empty_field.at(0).recipe, defaults);
}

// Each of these is one row's error and nobody else's.
TEST(BatchInputTest, HostileJsonIsAnErrorOfItsRow) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "no JSON object"},  // A line of its own is made below.
      {"[]", "no JSON object"},
      {"\"a\"", "no JSON object"},
      {"{", "no JSON object"},
      {"{\"prompt\": \"a\"} x", "no JSON object"},
      {"{\"prompt\": \"\xff\"}", "no JSON object"},
      {"{'prompt': 'a'}", "no JSON object"},
      {"{}", "prompt: is missing"},
      {R"({"Prompt": "a"})", "prompt: is missing"},
      {R"({"prompt": 7})", "prompt: is no text"},
      {R"({"prompt": ["a"]})", "prompt: is no text"},
      {R"({"prompt": "a", "sampler": "x"})", "sampler: is no field of a row"},
      {R"({"prompt": "a", "seed": "7"})", "seed: is no number"},
      {R"({"prompt": "a", "seed": true})", "seed: is no number"},
      {R"({"prompt": "a", "seed": {}})", "seed: is no number"},
      {R"({"prompt": "a", "seed": -1})", "seed: is no number in its range"},
      {R"({"prompt": "a", "seed": 1.5})", "seed: is no number in its range"},
      {R"({"prompt": "a", "seed": 18446744073709551616})", "seed: is no number in its range"},
      {R"({"prompt": "a", "count": 2147483648})", "count: is no number in its range"},
      {R"({"prompt": "a", "strength": 1e999})", "no JSON object"},
      {R"({"prompt": "a", "id": 1.5})", "id: is no text"},
      {R"({"prompt": "a", "id": ["x"]})", "id: is no text"},
      {std::string(100'000, '['), "no JSON object"},
      {R"({"prompt": )" + std::string(100'000, '['), "no JSON object"},
      {R"({"prompt": )" + std::string(100'000, '[') + std::string(100'000, ']') + "}", "prompt: is no text"}};
  for (const auto& [line, message] : cases) {
    const std::vector<Row> rows =
        Rows(InputFormat::kJsonLines,
             "{\"prompt\": \"before\"}\n" + (line.empty() ? "null" : line) + "\n{\"prompt\": \"after\"}\n");
    ASSERT_THAT(Prompts(rows), ElementsAre("before", "error", "after")) << line.substr(0, 80);
    EXPECT_THAT(rows[1].error, StatusIs(kInvalid, HasSubstr("line 2: "))) << line.substr(0, 80);
    EXPECT_THAT(rows[1].error, StatusIs(kInvalid, HasSubstr(message))) << line.substr(0, 80);
    EXPECT_EQ(rows[2].number, 3);
  }
}

TEST(BatchInputTest, HostileCsvRowsAreErrorsOfTheirRow) {
  const std::vector<std::pair<std::string, std::string>> cases = {{"a,1,2", "3 fields, but the header 2"},
                                                                  {"a", "1 fields, but the header 2"},
                                                                  {"a,x", "seed: is no number in its range: \"x\""},
                                                                  {"a,1.0", "seed"},
                                                                  {"a, 1", "seed"},
                                                                  {"a,-1", "seed"},
                                                                  {"a,0x10", "seed"},
                                                                  {"a,99999999999999999999999", "seed"},
                                                                  {"a,\xff", "seed: is not UTF-8"},
                                                                  {"\xff,1", "prompt: is not UTF-8"},
                                                                  {"a," + std::string(100'000, '9'), "seed"}};
  for (const auto& [line, message] : cases) {
    const std::vector<Row> rows = Rows(InputFormat::kCsv, "prompt,seed\nbefore,1\n" + line + "\nafter,2\n");
    ASSERT_THAT(Prompts(rows), ElementsAre("before", "error", "after")) << line.substr(0, 80);
    EXPECT_THAT(rows[1].error, StatusIs(kInvalid, HasSubstr(message)));
    EXPECT_LT(rows[1].error.message().size(), 200u);  // What is quoted is short, however long the field is.
  }
}

TEST(BatchInputTest, ACsvFileThatMakesNoSenseIsRefusedAsAWhole) {
  for (const auto& [text, message] :
       std::vector<std::pair<std::string, std::string>>{{"", "no header line"},
                                                        {"\n\n", "no header line"},
                                                        {"seed,width\n1,64\n", "no column \"prompt\""},
                                                        {"prompt,colour\na,red\n", "colour: is no field of a row"},
                                                        {"prompt,prompt\na,b\n", "prompt: is there twice"},
                                                        {"Prompt\na\n", "Prompt: is no field"},
                                                        {"prompt\n\"a\nb\n", "line 2: the quote is not closed"},
                                                        {"prompt\na\"b\n", "line 2: a quote in the middle"},
                                                        {"prompt\n\"a\"b\n", "line 2: a quote in the middle"}}) {
    EXPECT_THAT(ParseRows(InputFormat::kCsv, text, {}), StatusIs(kInvalid, HasSubstr(message))) << text;
  }
}

TEST(ParseCsvTest, FollowsRfc4180) {
  const auto parse = [](std::string_view text) { return *ParseCsv(text); };
  EXPECT_THAT(parse(""), IsEmpty());
  EXPECT_THAT(parse("a,b"), ElementsAre(ElementsAre("a", "b")));
  EXPECT_THAT(parse("a,b\r\nc,d\r\n"), ElementsAre(ElementsAre("a", "b"), ElementsAre("c", "d")));
  EXPECT_THAT(parse("a,\n,b\n,\n"), ElementsAre(ElementsAre("a", ""), ElementsAre("", "b"), ElementsAre("", "")));
  EXPECT_THAT(parse("a\n\n\nb\n"), ElementsAre(ElementsAre("a"), ElementsAre("b")));
  EXPECT_THAT(parse("\"\"\n"), ElementsAre(ElementsAre("")));
  EXPECT_THAT(parse("\"a,b\",\"c \"\"d\"\"\"\n"), ElementsAre(ElementsAre("a,b", "c \"d\"")));
  EXPECT_THAT(parse("\"a\nb\r\nc\",d\n"), ElementsAre(ElementsAre("a\nb\r\nc", "d")));
  EXPECT_THAT(parse(" a , b \n"), ElementsAre(ElementsAre(" a ", " b ")));
  EXPECT_THAT(parse("a\rb\n"), ElementsAre(ElementsAre("a\rb")));
}

TEST(ParseCsvTest, ErrorsNameTheirLine) {
  EXPECT_THAT(ParseCsv("a\n\"b\nc\"\n\"d"), StatusIs(kInvalid, HasSubstr("line 4")));
  EXPECT_THAT(ParseCsv("\"a\" ,b"), StatusIs(kInvalid, HasSubstr("line 1")));
}

TEST(InputFormatTest, IsToldByTheEndingOrByName) {
  EXPECT_THAT(InputFormatOf("a.b/C.TXT"), IsOkAndHolds(InputFormat::kText));
  EXPECT_THAT(InputFormatOf("x.jsonl"), IsOkAndHolds(InputFormat::kJsonLines));
  EXPECT_THAT(InputFormatOf("x.ndjson"), IsOkAndHolds(InputFormat::kJsonLines));
  EXPECT_THAT(InputFormatOf("x.csv"), IsOkAndHolds(InputFormat::kCsv));
  for (const std::string path : {"-", "x", "x.json", "csv", "x.csv.gz"}) {
    EXPECT_THAT(InputFormatOf(path), StatusIs(kInvalid, HasSubstr("--input-format"))) << path;
  }
  EXPECT_THAT(ParseInputFormat("jsonl"), IsOkAndHolds(InputFormat::kJsonLines));
  EXPECT_THAT(ParseInputFormat("tsv"), StatusIs(kInvalid));
}

}  // namespace
}  // namespace turbofleet::cli
