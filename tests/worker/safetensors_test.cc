#include "worker/engine/weights/safetensors.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/support/status_matchers.h"
#include "worker/engine/json/strict_json.h"

namespace turbofleet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

std::string FileOf(const std::string& header, size_t data_bytes) {
  std::string file(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(file.data(), &size, 8);
  file += header;
  for (size_t i = 0; i < data_bytes; ++i) file.push_back(static_cast<char>(i));
  return file;
}

absl::StatusOr<std::map<std::string, TensorView>> Parse(const std::string& file,
                                                        const WeightFiles::Limits& limits = {}) {
  return ParseSafetensors(reinterpret_cast<const std::byte*>(file.data()), file.size(), limits);
}

TEST(SafetensorsTest, TensorsAreViewsIntoTheFile) {
  const std::string file = FileOf(R"({"__metadata__":{"format":"pt"},)"
                                  R"("b":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]},)"
                                  R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                                  R"("c":{"data_offsets":[16,24],"shape":[1],"dtype":"I64"},)"
                                  R"("d":{"dtype":"BF16","shape":[5,0],"data_offsets":[24,24]}}   )",
                                  24);
  const auto tensors = Parse(file);
  TURBOFLEET_ASSERT_OK(tensors);
  ASSERT_THAT(*tensors, SizeIs(4));
  const std::byte* const data = reinterpret_cast<const std::byte*>(file.data()) + file.size() - 24;

  EXPECT_EQ(tensors->at("a").dtype, DType::kFloat32);
  EXPECT_THAT(tensors->at("a").shape, IsEmpty());
  EXPECT_EQ(tensors->at("a").size_bytes, 4u);
  EXPECT_EQ(tensors->at("a").data, data);
  EXPECT_EQ(tensors->at("b").dtype, DType::kFloat16);
  EXPECT_THAT(tensors->at("b").shape, ElementsAre(2, 3));
  EXPECT_EQ(tensors->at("b").data, data + 4);
  EXPECT_EQ(tensors->at("c").dtype, DType::kInt64);
  EXPECT_EQ(tensors->at("d").dtype, DType::kBfloat16);
  EXPECT_THAT(tensors->at("d").shape, ElementsAre(5, 0));
  EXPECT_EQ(tensors->at("d").size_bytes, 0u);
  EXPECT_EQ(tensors->at("d").data, data + 24);
}

TEST(SafetensorsTest, AFileWithoutTensorsIsValid) {
  EXPECT_THAT(Parse(FileOf("{}", 0)), IsOkAndHolds(IsEmpty()));
  // Empty tensors may share their place with the tensor that follows, whatever their names.
  TURBOFLEET_EXPECT_OK(Parse(FileOf(R"({"z":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},)"
                                    R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                    R"("m":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})",
                                    4)));
}

struct Hostile {
  const char* what;
  std::string header;
  size_t data_bytes;
  const char* message;
};

std::string Tensor(const std::string& fields) { return R"({"t":{)" + fields + "}}"; }

// Each of these was made to be believed by a careless reader. The message must say what is wrong.
TEST(SafetensorsTest, HostileHeadersAreRefusedByReason) {
  const std::vector<Hostile> cases = {
      {"no header", "", 0, "not a JSON object"},
      {"an array", "[]", 0, "not a JSON object"},
      {"leading space", " {}", 0, "not a JSON object"},
      {"broken JSON", "{", 0, "not JSON"},
      {"text behind the JSON", "{}{}", 0, "not JSON"},
      {"a NUL byte that would end the JSON", std::string("{}\0xx", 5), 0, "NUL"},
      {"invalid UTF-8", "{\"\xff\":{}}", 0, "not JSON"},
      {"number too large", Tensor(R"("dtype":"F32","shape":[1e999],"data_offsets":[0,4])"), 4, "not JSON"},
      {"metadata that is no object", R"({"__metadata__":"x"})", 0, "not an object"},
      {"metadata with a number", R"({"__metadata__":{"a":1}})", 0, "other than strings"},
      {"nested metadata", R"({"__metadata__":{"a":{}}})", 0, "other than strings"},
      {"metadata list", R"({"__metadata__":{"a":[]}})", 0, "other than strings"},
      {"metadata key twice", R"({"__metadata__":{"a":"","a":""}})", 0, "there twice"},
      {"metadata twice", R"({"__metadata__":{},"__metadata__":{}})", 0, "there twice"},
      {"tensor twice",
       R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       4, "'t' is there twice"},
      {"field twice", Tensor(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])"), 4, "dtype is there"},
      {"unknown field", Tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1)"), 4, "unknown field 'x'"},
      {"field missing", Tensor(R"("dtype":"F32","shape":[1])"), 4, "is missing"},
      {"tensor that is a number", R"({"t":1})", 0, "'t': not an object"},
      {"tensor that is a list", R"({"t":[]})", 0, "'t'"},
      {"dtype that is a list", Tensor(R"("dtype":["F32"],"shape":[1],"data_offsets":[0,4])"), 4, "dtype is of a wrong"},
      {"dtype that is a number", Tensor(R"("dtype":1,"shape":[1],"data_offsets":[0,4])"), 4, "dtype is of a wrong"},
      {"shape that is a string", Tensor(R"("dtype":"F32","shape":"1","data_offsets":[0,4])"), 4, "shape is of a wrong"},
      {"nested shape", Tensor(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])"), 4, "shape is of a wrong"},
      {"shape that is an object", Tensor(R"("dtype":"F32","shape":{},"data_offsets":[0,4])"), 4, "shape is of a wrong"},
      {"negative extent", Tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), 4, "shape is of a wrong"},
      {"float extent", Tensor(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), 4, "shape is of a wrong"},
      {"null extent", Tensor(R"("dtype":"F32","shape":[null],"data_offsets":[0,4])"), 4, "shape is of a wrong"},
      {"true extent", Tensor(R"("dtype":"F32","shape":[true],"data_offsets":[0,4])"), 4, "shape is of a wrong"},
      {"too many dimensions",
       Tensor(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])"), 4, "more than 16"},
      {"unknown dtype", Tensor(R"("dtype":"F64","shape":[1],"data_offsets":[0,8])"), 8, "dtype 'F64'"},
      {"lower-case dtype", Tensor(R"("dtype":"f32","shape":[1],"data_offsets":[0,4])"), 4, "dtype 'f32'"},
      {"one offset", Tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0])"), 4, "not two numbers"},
      {"three offsets", Tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,4])"), 4, "not two numbers"},
      {"offsets turned round", Tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), 4, "end before they begin"},
      {"span longer than the shape", Tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])"), 8, "need 4 bytes"},
      {"span shorter than the shape", Tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4, "need 8 bytes"},
      {"product that wraps to 4 bytes", Tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"),
       0, "too large"},
      {"product that wraps, hidden by a 0",
       Tensor(R"("dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0])"), 0, "too large"},
      {"extent beyond int64", Tensor(R"("dtype":"F32","shape":[9223372036854775808,0],"data_offsets":[0,0])"), 0,
       "too large"},
      {"beyond the file", Tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"), 7, "beyond the end"},
      {"trailing bytes", Tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), 5, "1 bytes at the end"},
      {"gap at the start", Tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), 8, "gap"},
      {"empty tensor beyond the data", Tensor(R"("dtype":"F32","shape":[0],"data_offsets":[4,4])"), 0, "beyond"},
      {"gap",
       R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[5,9]}})",
       9, "'b': data_offsets 5 to 9 leave a gap"},
      {"overlap",
       R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
       R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
       12, "overlap"},
      {"the same bytes twice",
       R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       4, "overlap"},
  };
  for (const Hostile& hostile : cases) {
    EXPECT_THAT(Parse(FileOf(hostile.header, hostile.data_bytes)), StatusIs(kInvalid, HasSubstr(hostile.message)))
        << hostile.what;
  }
}

TEST(SafetensorsTest, NamesInMessagesAreEscapedAndCut) {
  const std::string header = R"({"\u001b[31m)" + std::string(5000, 'x') + R"(":1})";
  const absl::Status status = Parse(FileOf(header, 0)).status();
  EXPECT_THAT(status, StatusIs(kInvalid, HasSubstr("\\x1b[31mxxx")));
  EXPECT_LT(status.message().size(), 300u);
}

TEST(SafetensorsTest, HeaderLengthIsCheckedBeforeUse) {
  std::string file = FileOf("{}", 0);
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_THAT(Parse(file.substr(0, size)), StatusIs(kInvalid)) << size;
  }
  for (const uint64_t size : {uint64_t{3}, uint64_t{1} << 24, (uint64_t{1} << 24) + 1, UINT64_MAX, UINT64_MAX - 7}) {
    std::memcpy(file.data(), &size, 8);
    EXPECT_THAT(Parse(file), StatusIs(kInvalid)) << size;
  }
}

TEST(SafetensorsTest, LimitsHold) {
  const std::string tensor = R"(:{"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  const std::string file = FileOf(R"({"a")" + tensor + R"(,"b")" + tensor + "}", 0);
  TURBOFLEET_EXPECT_OK(Parse(file, {.tensors_max = 2}));
  EXPECT_THAT(Parse(file, {.tensors_max = 1}), StatusIs(kInvalid, HasSubstr("more than 1 tensors")));
  TURBOFLEET_EXPECT_OK(Parse(file, {.header_bytes_max = file.size() - 8}));
  EXPECT_THAT(Parse(file, {.header_bytes_max = file.size() - 9}), StatusIs(kInvalid, HasSubstr("larger than")));
}

// Depth costs no stack: the deepest header that fits is refused like any other.
TEST(SafetensorsTest, DeepNestingIsRefused) {
  std::string header = R"({"t":)";
  header += std::string(10'000'000, '[');
  EXPECT_THAT(Parse(FileOf(header, 0)), StatusIs(kInvalid));
  std::string objects = "{";
  for (int i = 0; i < 100'000; ++i) objects += R"("__metadata__":{)";
  EXPECT_THAT(Parse(FileOf(objects, 0)), StatusIs(kInvalid));
}

class WeightFilesTest : public ::testing::Test {
 protected:
  WeightFilesTest() {
    std::string pattern = ::testing::TempDir() + "weightsXXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~WeightFilesTest() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& content) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << content;
  }
  absl::StatusOr<WeightFiles> OpenModel(const WeightFiles::Limits& limits = {}) {
    return WeightFiles::OpenComponent(folder_, "model", limits);
  }
  static std::string OneTensor(const std::string& name) {
    return FileOf("{\"" + name + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4);
  }

  std::string folder_;
};

TEST_F(WeightFilesTest, OpenMapsAFileAndOutlivesAMove) {
  Write("model.safetensors", OneTensor("a"));
  auto opened = WeightFiles::Open(folder_ + "/model.safetensors", {});
  TURBOFLEET_ASSERT_OK(opened);
  const WeightFiles files = std::move(*opened);
  EXPECT_THAT(files.Paths(), ElementsAre(folder_ + "/model.safetensors"));
  ASSERT_THAT(files.Tensors(), SizeIs(1));
  EXPECT_EQ(files.Tensors().at("a").data[3], std::byte{3});
}

TEST_F(WeightFilesTest, WhatIsNoFileIsRefused) {
  EXPECT_THAT(WeightFiles::Open(folder_ + "/none", {}), StatusIs(absl::StatusCode::kNotFound, HasSubstr("/none")));
  EXPECT_THAT(WeightFiles::Open(folder_, {}), StatusIs(kInvalid, HasSubstr("not a regular file")));
  Write("empty", "");
  EXPECT_THAT(WeightFiles::Open(folder_ + "/empty", {}), StatusIs(kInvalid, HasSubstr("/empty: empty")));
  // A named pipe must not hang the loader.
  ASSERT_EQ(mkfifo((folder_ + "/pipe").c_str(), 0600), 0);
  EXPECT_THAT(WeightFiles::Open(folder_ + "/pipe", {}), StatusIs(kInvalid, HasSubstr("not a regular file")));
  Write("bad", "{}");
  EXPECT_THAT(WeightFiles::Open(folder_ + "/bad", {}), StatusIs(kInvalid, HasSubstr("/bad: ")));
}

TEST_F(WeightFilesTest, FullPrecisionComesFirst) {
  EXPECT_THAT(OpenModel(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("model.fp16.safetensors")));
  Write("shard-b", OneTensor("from.fp16.index"));
  Write("model.safetensors.index.fp16.json", R"({"weight_map":{"from.fp16.index":"shard-b"}})");
  const auto first = [&] { return OpenModel().value().Tensors().begin()->first; };
  EXPECT_EQ(first(), "from.fp16.index");
  Write("model.fp16.safetensors", OneTensor("from.fp16"));
  EXPECT_EQ(first(), "from.fp16");
  Write("shard-a", OneTensor("from.index"));
  Write("model.safetensors.index.json", R"({"metadata":{"total_size":4},"weight_map":{"from.index":"shard-a"}})");
  EXPECT_EQ(first(), "from.index");
  Write("model.safetensors", OneTensor("from.full"));
  EXPECT_EQ(first(), "from.full");
}

TEST_F(WeightFilesTest, ShardsAreJoined) {
  Write("2.safetensors", OneTensor("a"));
  Write("1.safetensors", OneTensor("b"));
  Write("model.safetensors.index.json", R"({"weight_map":{"a":"2.safetensors","b":"1.safetensors"}})");
  const auto files = OpenModel();
  TURBOFLEET_ASSERT_OK(files);
  EXPECT_THAT(files->Paths(), ElementsAre(folder_ + "/1.safetensors", folder_ + "/2.safetensors"));
  EXPECT_THAT(files->Tensors(), ElementsAre(Pair("a", testing::_), Pair("b", testing::_)));
  EXPECT_THAT(OpenModel({.shards_max = 1}), StatusIs(kInvalid, HasSubstr("more than 1 shards")));
  EXPECT_THAT(OpenModel({.tensors_max = 1}), StatusIs(kInvalid, HasSubstr("more than 1 tensors")));
}

// A hub cache keeps files elsewhere and links to them.
TEST_F(WeightFilesTest, LinkedShardsAreFollowed) {
  std::filesystem::create_directory(folder_ + "/blobs");
  Write("blobs/x", OneTensor("a"));
  std::filesystem::create_symlink("blobs/x", folder_ + "/1.safetensors");
  Write("model.safetensors.index.json", R"({"weight_map":{"a":"1.safetensors"}})");
  TURBOFLEET_EXPECT_OK(OpenModel());
}

TEST_F(WeightFilesTest, BadIndexesAreRefused) {
  Write("1.safetensors", OneTensor("a"));
  Write("2.safetensors", OneTensor("a"));
  const auto with_index = [&](const std::string& index) {
    Write("model.safetensors.index.json", index);
    return OpenModel();
  };
  TURBOFLEET_EXPECT_OK(with_index(R"({"weight_map":{"a":"1.safetensors"}})"));
  EXPECT_THAT(with_index(R"({"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})"),
              StatusIs(kInvalid, HasSubstr("another shard")));
  EXPECT_THAT(with_index(R"({"weight_map":{"c":"1.safetensors"}})"), StatusIs(kInvalid, HasSubstr("'c' is not in")));
  EXPECT_THAT(with_index(R"({"weight_map":{"a":"1.safetensors","a":"1.safetensors"}})"),
              StatusIs(kInvalid, HasSubstr("there twice")));
  EXPECT_THAT(with_index(R"({"weight_map":{"a":"3.safetensors"}})"), StatusIs(absl::StatusCode::kNotFound));
  for (const char* name : {"", ".", "..", "/etc/passwd", "../x", "a/b", "1.safetensors\\u0000x"}) {
    EXPECT_THAT(with_index(std::string(R"({"weight_map":{"a":")") + name + R"("}})"),
                StatusIs(kInvalid, HasSubstr("not the name of a file")))
        << name;
  }
  for (const char* index : {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{}})", R"({"weight_map":{"a":1}})",
                            R"({"weight_map":{"a":"1.safetensors"})"}) {
    EXPECT_THAT(with_index(index), StatusIs(kInvalid, HasSubstr("index.json"))) << index;
  }
}

TEST(StrictJsonTest, ValuesOfEveryKindAreKept) {
  const char* const text = R"({"a":[1,-2,3.5,true,null,"x",{"b":[]}],"c":{}})";
  EXPECT_THAT(ParseStrictJson(text, {}), IsOkAndHolds(nlohmann::json::parse(text)));
  EXPECT_THAT(ParseStrictJson("7", {}), IsOkAndHolds(nlohmann::json(7)));
}

TEST(StrictJsonTest, WhatTheLibraryLetsPassIsRefused) {
  EXPECT_THAT(ParseStrictJson(R"({"a":1,"a":2})", {}), StatusIs(kInvalid, HasSubstr("'a' is there twice")));
  EXPECT_THAT(ParseStrictJson(std::string("{}\0x", 4), {}), StatusIs(kInvalid));
  EXPECT_THAT(ParseStrictJson("", {}), StatusIs(kInvalid));
  EXPECT_THAT(ParseStrictJson("{} x", {}), StatusIs(kInvalid));
  EXPECT_THAT(ParseStrictJson("\"\xff\"", {}), StatusIs(kInvalid));
  TURBOFLEET_EXPECT_OK(ParseStrictJson("[[[]]]", {.depth_max = 3}));
  EXPECT_THAT(ParseStrictJson("[[[]]]", {.depth_max = 2}), StatusIs(kInvalid, HasSubstr("deeper than 2")));
  TURBOFLEET_EXPECT_OK(ParseStrictJson("[1,2]", {.values_max = 3}));
  EXPECT_THAT(ParseStrictJson("[1,2,3]", {.values_max = 3}), StatusIs(kInvalid, HasSubstr("more than 3 values")));
  EXPECT_THAT(ParseStrictJson("[1,2]", {.bytes_max = 4}), StatusIs(kInvalid, HasSubstr("larger than 4")));
}

}  // namespace
}  // namespace turbofleet
