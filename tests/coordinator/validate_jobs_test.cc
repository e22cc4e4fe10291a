#include "coordinator/service/validate_jobs.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::HasSubstr;

const std::string kId(32, 'a');

v1::JobSpec Spec() {
  v1::JobSpec spec;
  spec.mutable_images()->add_prompts("a red circle");
  return spec;
}

auto Names(const char* field) { return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(field)); }

TEST(ValidateJobsTest, AJobIsTakenOver) {
  v1::JobSpec spec = Spec();
  spec.set_request_id("Night-7:a/b_c.d");
  spec.mutable_labels()->insert({"team", "x/y"});
  spec.mutable_timeout()->set_seconds(1);
  spec.mutable_retention()->set_seconds(0);
  const auto order = ParseJobSpec(spec);
  ASSERT_THAT(order, IsOk());
  EXPECT_EQ(order->request_id, "Night-7:a/b_c.d");
  EXPECT_EQ(order->labels.at("team"), "x/y");
  EXPECT_EQ(order->timeout, absl::Seconds(1));
  EXPECT_EQ(order->retention, absl::ZeroDuration());
  EXPECT_EQ(ParseJobSpec(Spec())->timeout, absl::InfiniteDuration());
  EXPECT_FALSE(ParseJobSpec(Spec())->retention.has_value());
}

TEST(ValidateJobsTest, WhatIsWrongWithAJobIsNamed) {
  EXPECT_THAT(ParseJobSpec(v1::JobSpec()), Names("job.images: is not set"));
  v1::JobSpec spec = Spec();
  spec.mutable_images()->mutable_prompts(0)->assign(1, '\xff');
  EXPECT_THAT(ParseJobSpec(spec), Names("job.images.prompts[0]"));
  const std::string too_long(129, 'a');
  for (const char* id : {"a b", "\xc3\xa4", too_long.c_str()}) {
    spec = Spec();
    // Bytes, whatever the runtime thinks of them.
    spec.mutable_request_id()->assign(id);
    EXPECT_THAT(ParseJobSpec(spec), Names("job.request_id")) << id;
  }
  const std::string long_label(64, 'k');
  for (const auto& [key, value] : {std::pair("", "x"), std::pair("a b", "x"), std::pair("a", "x y"),
                                   std::pair(long_label.c_str(), "x"), std::pair("k", long_label.c_str())}) {
    spec = Spec();
    spec.mutable_labels()->insert({std::string(key), std::string(value)});
    EXPECT_THAT(ParseJobSpec(spec), Names("job.labels")) << key;
  }
  spec = Spec();
  for (int i = 0; i < 17; ++i) spec.mutable_labels()->insert({absl::StrCat("k", i), ""});
  EXPECT_THAT(ParseJobSpec(spec), Names("job.labels: has 17"));
  for (const int64_t seconds : {int64_t{0}, int64_t{-1}, int64_t{30 * 24 * 3600 + 1}}) {
    spec = Spec();
    spec.mutable_timeout()->set_seconds(seconds);
    EXPECT_THAT(ParseJobSpec(spec), Names("job.timeout")) << seconds;
  }
  spec = Spec();
  spec.mutable_retention()->set_nanos(-1);
  EXPECT_THAT(ParseJobSpec(spec), Names("job.retention"));
  spec = Spec();
  spec.GetReflection()->MutableUnknownFields(&spec)->AddVarint(99, 1);
  EXPECT_THAT(ParseJobSpec(spec), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(ValidateJobsTest, PromptsComeWithBounds) {
  v1::PromptList list;
  EXPECT_THAT(ParsePromptList(list), Names("prompts.prompts: is empty"));
  for (int i = 0; i < kPromptsInMessageMax; ++i) list.add_prompts(std::string("p"));
  EXPECT_THAT(ParsePromptList(list), IsOk());
  list.add_prompts(std::string("p"));
  EXPECT_THAT(ParsePromptList(list), Names("prompts.prompts: has 8193"));
  list.Clear();
  list.add_prompts(std::string("p"));
  list.add_prompts(std::string());
  list.mutable_prompts(1)->assign(1, '\xff');
  EXPECT_THAT(ParsePromptList(list), Names("prompts.prompts[1]"));
}

TEST(ValidateJobsTest, OnlyNamesOfJobsAreNames) {
  EXPECT_THAT(ParseJobName(absl::StrCat("jobs/", kId)), IsOkAndHolds(kId));
  for (const std::string& name :
       {std::string(), std::string("jobs/"), kId, absl::StrCat("jobs/", kId, "a"),
        absl::StrCat("jobs/", std::string(32, 'g')), absl::StrCat("jobs/", std::string(32, 'A')),
        absl::StrCat("Jobs/", kId), absl::StrCat("jobs/../", std::string(29, 'a'))}) {
    EXPECT_THAT(ParseJobName(name), Names("name")) << name;
  }
}

TEST(ValidateJobsTest, ATokenComesBackAsItWasAndBelongsToItsJob) {
  for (const bool ordered : {false, true}) {
    for (const int64_t position : {int64_t{0}, int64_t{1}, int64_t{100'000'000}}) {
      const std::string token = ResumeToken(kId, {.ordered = ordered, .position = position});
      const auto back = ParseResumeToken(kId, token, !ordered);
      ASSERT_THAT(back, IsOk());
      EXPECT_EQ(back->ordered, ordered);
      EXPECT_EQ(back->position, position);
      EXPECT_THAT(ParseResumeToken(std::string(32, 'b'), token, ordered), Names("resume_token"));
    }
    EXPECT_EQ(ParseResumeToken(kId, "", ordered)->ordered, ordered);
  }
  for (const char* token : {"x1.aaaaaaaa", "s.aaaaaaaa", "s-1.aaaaaaaa", "s01.aaaaaaaa", "s1.aaaaaaa", "s1", ".",
                            "s99999999999999999999.aaaaaaaa", "s1.aaaaaaaab", " s1.aaaaaaaa"}) {
    EXPECT_THAT(ParseResumeToken(kId, token, false), Names("resume_token")) << token;
  }
}

TEST(ValidateJobsTest, PagesGoOnWhereTheyEnded) {
  JobRecord last;
  last.id = kId;
  last.create_time = absl::FromUnixMicros(1'234'567);
  v1::ListJobsRequest request;
  request.set_page_token(PageTokenAfter(last));
  request.set_state(v1::Job::STATE_CANCELLED);
  const auto query = ParseListJobsRequest(request);
  ASSERT_THAT(query, IsOk());
  EXPECT_EQ(query->after, std::pair(last.create_time, last.id));
  EXPECT_EQ(query->state, JobState::kCancelled);
  for (const std::string& token : {std::string("1"), absl::StrCat("1.", kId, "a"), absl::StrCat("x.", kId),
                                   absl::StrCat(".", kId), absl::StrCat("-1.", kId)}) {
    request.set_page_token(token);
    EXPECT_THAT(ParseListJobsRequest(request), Names("page_token")) << token;
  }
  request.clear_page_token();
  request.set_state(static_cast<v1::Job::State>(77));
  EXPECT_THAT(ParseListJobsRequest(request), Names("state: is 77"));
}

}  // namespace
}  // namespace turbofleet
