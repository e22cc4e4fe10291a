// From answers of a cluster to files, lines of the manifest, errors and exit codes.
#include "client/cli/runner.h"

#include "client/cli/command.h"
#include "client/cli/output_flags.h"
#include "common/errors.h"
#include "common/flags.h"
#include "nlohmann/json.hpp"
#include "tests/client/cli/temporary_folder.h"
#include "tests/client/lib/fake_stub.h"
#include "tests/support/status_matchers.h"

namespace turbofleet::cli {
namespace {

using absl::StatusCode;
using client::FakeStream;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

Call CallOf(const std::vector<std::string>& prompts, const std::vector<uint64_t>& seeds, int64_t first_index = 0) {
  Call call;
  call.request.prompts = prompts;
  call.request.seeds = seeds;
  for (size_t i = 0; i < prompts.size(); ++i) {
    Source source{.id = "id-" + prompts[i], .row = static_cast<int64_t>(i) + 1, .indexes = {}};
    for (size_t j = 0; j < seeds.size(); ++j) source.indexes.push_back(first_index++);
    call.sources.push_back(source);
  }
  return call;
}

class RunnerTest : public ::testing::Test {
 protected:
  absl::Status Run(std::vector<Call> calls, const RunOptions& options = {}, std::stop_token stop = {}) {
    Client client(cluster_.Connect());
    folder_ = *OutputFolder::Open(temporary_.path(), *NameTemplate::Parse("{index}"));
    progress_ = std::make_unique<Progress>(ProgressStyle::kLines, cluster_.clock.get());
    runner_ = std::make_unique<Runner>(&client, folder_.get(), progress_.get(), cluster_.clock.get(), options);
    return runner_->Run(std::move(calls), stop);
  }

  std::vector<nlohmann::json> Lines(const std::string& name) {
    std::vector<nlohmann::json> lines;
    std::istringstream text(temporary_.Read(name));
    for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  // What a program ends with.
  int Finish(const absl::Status& status, int64_t earlier = 0) {
    ::testing::internal::CaptureStderr();
    const int code = FinishRun({}, {}, *runner_, status, earlier, folder_.get(), progress_.get());
    said_ = ::testing::internal::GetCapturedStderr();
    return code;
  }

  client::FakeCluster cluster_;
  TemporaryFolder temporary_;
  std::unique_ptr<OutputFolder> folder_;
  std::unique_ptr<Progress> progress_;
  std::unique_ptr<Runner> runner_;
  std::string said_;
};

TEST_F(RunnerTest, EachImageBecomesAFileAndALine) {
  cluster_.script = {[](FakeStream* stream) { return stream->SendAll(); }};
  const absl::Status status = Run({CallOf({"a", "b"}, {3, 4}, 10)});
  TURBOFLEET_ASSERT_OK(status);
  EXPECT_THAT(temporary_.Names(), ElementsAre("10.png", "11.png", "12.png", "13.png", "manifest.jsonl"));
  EXPECT_EQ(temporary_.Read("13.png"), "b/4");
  const std::vector<nlohmann::json> lines = Lines("manifest.jsonl");
  ASSERT_THAT(lines, SizeIs(4));
  EXPECT_EQ(lines[3]["index"], 13);
  EXPECT_EQ(lines[3]["prompt"], "b");
  EXPECT_EQ(lines[3]["seed"], 4);
  EXPECT_EQ(lines[3]["steps"], 1);
  EXPECT_EQ(lines[3]["id"], "id-b");
  EXPECT_EQ(lines[3]["path"], "13.png");
  EXPECT_EQ(lines[3]["worker"], "workers/1");
  EXPECT_EQ(runner_->images(), 4);
  EXPECT_EQ(Finish(status), kExitOk);
}

TEST_F(RunnerTest, AFailureIsALineOfItsOwnAndTheOthersCome) {
  cluster_.script = {[](FakeStream* stream) {
    stream->Accept();
    stream->Failure(0, "BROKEN_PICTURE");
    stream->Image(1);
    return absl::OkStatus();
  }};
  const absl::Status status = Run({CallOf({"a"}, {3, 4}, 10)});
  TURBOFLEET_ASSERT_OK(status);
  const std::vector<nlohmann::json> errors = Lines("errors.jsonl");
  ASSERT_THAT(errors, SizeIs(1));
  EXPECT_EQ(errors[0]["index"], 10);
  EXPECT_EQ(errors[0]["row"], 1);
  EXPECT_EQ(errors[0]["prompt"], "a");
  EXPECT_EQ(errors[0]["seed"], 3);
  EXPECT_EQ(errors[0]["code"], "INTERNAL");
  EXPECT_EQ(errors[0]["reason"], "BROKEN_PICTURE");
  EXPECT_EQ(Finish(status), kExitSomeFailed);
  EXPECT_THAT(said_, HasSubstr("1 failed: see "));
}

TEST_F(RunnerTest, NothingButFailuresIsAFailure) {
  cluster_.script = {[](FakeStream* stream) {
    stream->Accept();
    stream->Failure(0);
    return absl::OkStatus();
  }};
  const absl::Status status = Run({CallOf({"a"}, {3})});
  EXPECT_EQ(Finish(status), kExitFailed);
  // With pictures of an earlier run it is only some.
  EXPECT_EQ(Finish(status, /*earlier=*/5), kExitSomeFailed);
}

TEST_F(RunnerTest, TheExitCodeTellsWhatEndedARun) {
  const std::vector<std::pair<absl::Status, int>> cases = {
      {absl::UnavailableError("gone"), kExitCannotConnect},
      {absl::DeadlineExceededError("late"), kExitDeadline},
      {absl::CancelledError("by the caller"), kExitInterrupted},
      {MakeError(StatusCode::kFailedPrecondition, "NO_SUCH_MODEL", "no such model"), kExitFailed},
      {absl::DataLossError("disk full"), kExitFailed}};
  cluster_.script = {[](FakeStream* stream) { return stream->SendAll(); }};
  TURBOFLEET_ASSERT_OK(Run({CallOf({"a"}, {3})}));
  for (const auto& [status, code] : cases) EXPECT_EQ(Finish(status), code) << status;
  Finish(cases[0].first);
  EXPECT_THAT(said_, HasSubstr("No coordinator answers at localhost:50051"));
  EXPECT_THAT(said_, HasSubstr("TURBOFLEET_COORDINATOR"));
  Finish(cases[3].first);
  EXPECT_THAT(said_, HasSubstr("no such model [NO_SUCH_MODEL]"));
}

// `batch`: what the cluster refuses is an error of its rows. Named prompts are dropped, and the rest is asked for
// again.
TEST_F(RunnerTest, RefusedPromptsGoToTheErrorsAndTheRestGoesOn) {
  cluster_.script = {[](FakeStream*) { return InvalidField("prompts[1]", "is in bad taste"); },
                     [](FakeStream* stream) { return stream->SendAll(); },
                     [](FakeStream*) { return MakeError(StatusCode::kFailedPrecondition, "NO_SUCH_MODEL", "no"); },
                     [](FakeStream* stream) { return stream->SendAll(); }};
  const absl::Status status = Run({CallOf({"a", "b", "c"}, {3}), CallOf({"d", "e"}, {3}, 10), CallOf({"f"}, {3}, 20)},
                                  {.refusals_belong_to_rows = true});
  TURBOFLEET_ASSERT_OK(status);
  EXPECT_THAT(cluster_.requests[1].prompts(), ElementsAre("a", "c"));
  EXPECT_THAT(temporary_.Names(), ElementsAre("0.png", "2.png", "20.png", "errors.jsonl", "manifest.jsonl"));
  EXPECT_EQ(temporary_.Read("2.png"), "c/3");
  std::vector<std::string> ids;
  for (const nlohmann::json& error : Lines("errors.jsonl")) ids.push_back(error["id"]);
  EXPECT_THAT(ids, ::testing::UnorderedElementsAre("id-b", "id-d", "id-e"));
  EXPECT_EQ(runner_->failures(), 3);
  EXPECT_EQ(Finish(status), kExitSomeFailed);
}

TEST_F(RunnerTest, WhatIsNobodysInParticularEndsTheRun) {
  cluster_.script = {[](FakeStream*) { return absl::UnimplementedError("no such method"); }};
  EXPECT_THAT(Run({CallOf({"a"}, {3}), CallOf({"b"}, {3})}), StatusIs(StatusCode::kUnimplemented));
  cluster_.requests.clear();
  folder_.reset();
  cluster_.script = {[](FakeStream*) { return absl::PermissionDeniedError("not you"); }};
  EXPECT_THAT(Run({CallOf({"a"}, {3}), CallOf({"b"}, {3})}, {.refusals_belong_to_rows = true}),
              StatusIs(StatusCode::kPermissionDenied));
  EXPECT_EQ(cluster_.requests.size(), 1u);
}

TEST_F(RunnerTest, AStopBetweenCallsKeepsWhatThereIs) {
  std::stop_source stop;
  cluster_.script = {[&](FakeStream* stream) {
    const absl::Status status = stream->SendAll();
    stop.request_stop();
    return status;
  }};
  EXPECT_THAT(Run({CallOf({"a"}, {3}), CallOf({"b"}, {3}, 1)}, {}, stop.get_token()), StatusIs(StatusCode::kCancelled));
  EXPECT_THAT(temporary_.Names(), ElementsAre("0.png", "manifest.jsonl"));
}

TEST_F(RunnerTest, AllCallsTogetherHaveOneDeadline) {
  cluster_.script = {[this](FakeStream* stream) {
                       EXPECT_EQ(stream->options.timeout, absl::Seconds(10));
                       cluster_.clock->Advance(absl::Seconds(4));
                       return stream->SendAll();
                     },
                     [](FakeStream* stream) {
                       EXPECT_EQ(stream->options.timeout, absl::Seconds(6));
                       return stream->SendAll();
                     }};
  TURBOFLEET_EXPECT_OK(Run({CallOf({"a"}, {3}), CallOf({"b"}, {3}, 1)}, {.timeout = absl::Seconds(10)}));
}

// A picture that cannot be written must end the call, not be dropped in silence.
TEST_F(RunnerTest, ADiskThatRefusesEndsTheRun) {
  cluster_.script = {[this](FakeStream* stream) {
    stream->Accept();
    std::filesystem::remove_all(temporary_.path());
    stream->Image(0);
    EXPECT_TRUE(stream->options.stop.stop_requested());  // Or a cluster would go on drawing for nobody.
    return absl::CancelledError("by the client");
  }};
  const absl::Status status = Run({CallOf({"a"}, {3, 4})});
  EXPECT_THAT(status, StatusIs(StatusCode::kNotFound, HasSubstr("cannot write")));
}

TEST_F(RunnerTest, JsonIsALineOnStandardOutputPerImage) {
  cluster_.script = {[](FakeStream* stream) { return stream->SendAll(); }};
  ::testing::internal::CaptureStdout();
  TURBOFLEET_EXPECT_OK(Run({CallOf({"a"}, {3, 4})}, {.json = true}));
  std::istringstream text(::testing::internal::GetCapturedStdout());
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_THAT(lines, SizeIs(2));
  EXPECT_EQ(lines[1]["path"], temporary_ / "1.png");
}

}  // namespace
}  // namespace turbofleet::cli
