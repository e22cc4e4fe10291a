#include "client/cli/manifest.h"

#include "nlohmann/json.hpp"
#include "tests/client/cli/entries.h"
#include "tests/support/status_matchers.h"

namespace turbofleet::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

ManifestEntry FullEntry() {
  ManifestEntry entry = Entry(3, "line\nbreak \"quoted\" \xf0\x9f\xa6\x8a", 4294967295);
  entry.strength = 0.25;
  entry.id = "row-3";
  entry.negative_prompt = "blur";
  entry.guidance_scale = 1.5;
  entry.format = "webp";
  entry.quality = 80;
  entry.vae = "tiny";
  entry.init_image = "../start.png";
  entry.init_image_sha256 = std::string(64, 'c');
  entry.job = "jobs/1";
  entry.attempt = 2;
  entry.prompt_tokens_cut = 4;
  return entry;
}

// The first eleven keys are a promise to other programs: their names and their order.
TEST(ManifestTest, TheKeysStay) {
  std::vector<std::string> keys;
  const nlohmann::ordered_json json = ToJson(Entry(0));
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  keys.resize(11);
  EXPECT_THAT(keys, ElementsAre("index", "prompt", "seed", "width", "height", "steps", "strength", "path", "sha256",
                                "model_digest", "worker"));
}

TEST(ManifestTest, ALineComesBackAsItWas) {
  for (const ManifestEntry& entry : {Entry(0), FullEntry()}) {
    const std::string line = ToJson(entry).dump();
    EXPECT_EQ(line.find('\n'), std::string::npos);
    const absl::StatusOr<ManifestEntry> again = ParseManifestLine(line);
    TURBOFLEET_ASSERT_OK(again);
    EXPECT_EQ(ToJson(*again), ToJson(entry));
  }
}

TEST(ManifestTest, KeysOfLaterReleasesAreLeftAlone) {
  nlohmann::ordered_json json = ToJson(Entry(0));
  json["later"] = {1, 2};
  TURBOFLEET_EXPECT_OK(ParseManifestLine(json.dump()));
}

TEST(ManifestTest, WhatIsMissingOrWrongIsNamed) {
  const auto with = [](const std::string& key, const nlohmann::ordered_json& value) {
    nlohmann::ordered_json json = ToJson(FullEntry());
    json[key] = value;
    return ParseManifestLine(json.dump());
  };
  for (const std::string key : {"index", "prompt", "seed", "width", "height", "steps", "strength", "path", "sha256",
                                "model_digest", "worker"}) {
    nlohmann::ordered_json json = ToJson(FullEntry());
    json.erase(key);
    EXPECT_THAT(ParseManifestLine(json.dump()), StatusIs(kInvalid, HasSubstr(key + ": is missing")));
    EXPECT_THAT(with(key, nlohmann::ordered_json::array()), StatusIs(kInvalid, HasSubstr(key)));
  }
  for (const std::string key : {"id", "negative_prompt", "guidance_scale", "format", "quality", "vae", "init_image",
                                "init_image_sha256", "job", "attempt", "prompt_tokens_cut", "request"}) {
    EXPECT_THAT(with(key, nlohmann::ordered_json::array()), StatusIs(kInvalid, HasSubstr(key)));
  }
  EXPECT_THAT(with("index", -1), StatusIs(kInvalid, HasSubstr("index")));
  EXPECT_THAT(with("seed", 4294967296), StatusIs(kInvalid, HasSubstr("seed")));
  EXPECT_THAT(with("width", 1 << 30), StatusIs(kInvalid, HasSubstr("width")));
  EXPECT_THAT(with("seed", 1.5), StatusIs(kInvalid, HasSubstr("seed")));
  for (const std::string line : {"", "[]", "7", "{", "null"}) {
    EXPECT_THAT(ParseManifestLine(line), StatusIs(kInvalid)) << line;
  }
}

// A run that is killed in the middle of a line leaves half of one, which means nothing: its picture is made again.
TEST(ManifestTest, ALineThatWasCutShortIsNoLine) {
  const std::string whole = ToJson(Entry(0)).dump() + "\n\n" + ToJson(Entry(1)).dump() + "\r\n";
  for (const std::string& rest : {std::string(), std::string("{\"index\""), ToJson(Entry(2)).dump()}) {
    const absl::StatusOr<Manifest> manifest = ParseManifest(whole + rest);
    TURBOFLEET_ASSERT_OK(manifest);
    EXPECT_THAT(manifest->entries, SizeIs(2));
    EXPECT_EQ(manifest->bytes_whole, whole.size());
  }
}

TEST(ManifestTest, DamageInTheMiddleIsAnErrorOfItsLine) {
  const std::string line = ToJson(Entry(0)).dump() + "\n";
  EXPECT_THAT(ParseManifest(line + "\n{\n" + line), StatusIs(kInvalid, HasSubstr("line 3")));
}

}  // namespace
}  // namespace turbofleet::cli
