// What a caller of GenerateImages() sees of a coordinator that is busy, dies, or misbehaves; and what the coordinator
// is asked for then. Time is simulated: every wait of these tests is a number.
#include <limits>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "client/lib/missing_images.h"
#include "common/errors.h"
#include "tests/client/lib/fake_stub.h"
#include "tests/support/status_matchers.h"

namespace turbofleet::client {
namespace {

using absl::StatusCode;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

absl::Status Gone() { return absl::UnavailableError("connection reset"); }

absl::Status Busy(absl::Duration delay) {
  return WithRetryAfter(MakeError(StatusCode::kResourceExhausted, "QUEUE_FULL", "the queue is full"), delay);
}

std::vector<std::string> PromptsOf(const v1::GenerateImagesRequest& request) {
  return {request.prompts().begin(), request.prompts().end()};
}
std::vector<uint64_t> SeedsOf(const v1::GenerateImagesRequest& request) {
  return {request.seeds().begin(), request.seeds().end()};
}

class GenerateCallTest : public ::testing::Test {
 protected:
  // Runs the call and remembers its events.
  absl::Status Generate(const GenerateRequest& request, const GenerateOptions& options = {},
                        const RetryPolicy& policy = {}) {
    return cluster_.Connect(policy)->GenerateImages(request, options, [this](GenerateEvent event) {
      if (auto* accepted = std::get_if<Accepted>(&event)) accepted_.push_back(*accepted);
      if (auto* image = std::get_if<Image>(&event)) images_.push_back(std::move(*image));
      if (auto* failure = std::get_if<ImageFailure>(&event)) failures_.push_back(std::move(*failure));
      on_event_();
    });
  }

  // "INDEX PROMPT/SEED" of each image, as it came.
  std::vector<std::string> Arrived() const {
    std::vector<std::string> arrived;
    for (const Image& image : images_) arrived.push_back(absl::StrCat(image.index, " ", image.content));
    return arrived;
  }

  FakeCluster cluster_;
  std::vector<Accepted> accepted_;
  std::vector<Image> images_;
  std::vector<ImageFailure> failures_;
  std::function<void()> on_event_ = [] {};
};

TEST_F(GenerateCallTest, ImagesComeAsTheyEndAndFailuresCountAsEnds) {
  cluster_.script = {[](FakeStream* stream) {
    stream->Accept();
    stream->Image(2);
    stream->Failure(1);
    stream->Image(3);
    stream->Image(0);
    return absl::OkStatus();
  }};
  TURBOFLEET_ASSERT_OK(Generate({.prompts = {"a", "b"}, .seed = 7, .count = 2}));
  ASSERT_THAT(accepted_, SizeIs(1));
  EXPECT_EQ(accepted_[0].image_count, 4);
  EXPECT_THAT(accepted_[0].seeds, ElementsAre(7, 8));
  EXPECT_THAT(Arrived(), ElementsAre("2 b/7", "3 b/8", "0 a/7"));
  EXPECT_EQ(images_[0].prompt_index, 1);
  EXPECT_EQ(images_[0].job, "jobs/1");
  ASSERT_THAT(failures_, SizeIs(1));
  EXPECT_EQ(failures_[0].index, 1);
  EXPECT_EQ(failures_[0].prompt_index, 0);
  EXPECT_EQ(failures_[0].seed, 8u);
  EXPECT_THAT(failures_[0].status, StatusIs(StatusCode::kInternal, "the picture came out broken"));
  EXPECT_EQ(ReasonOf(failures_[0].status), "RENDER_FAILED");
  EXPECT_THAT(cluster_.sleeps, IsEmpty());
}

TEST_F(GenerateCallTest, WhatIsWrongInAnyCaseIsNeverSent) {
  const absl::Status status = Generate({.prompts = {"a"}, .steps = 9});
  EXPECT_THAT(status, StatusIs(StatusCode::kInvalidArgument, HasSubstr("steps")));
  EXPECT_THAT(BadFieldsOf(status), ElementsAre("steps"));
  EXPECT_EQ(cluster_.requests.size(), 0u);
}

TEST_F(GenerateCallTest, ARefusalKeepsItsReasonAndIsNotTriedAgain) {
  const std::vector<absl::Status> refusals = {
      InvalidField("prompts[0]", "is too long"),
      MakeError(StatusCode::kFailedPrecondition, "NO_SUCH_MODEL", "no worker has that model"),
      MakeError(StatusCode::kNotFound, "NO_SUCH_MODEL", "no worker has that model"),
      // No time to come back was given: coming back would not help.
      MakeError(StatusCode::kResourceExhausted, "TOO_MANY_IMAGES", "the request is too large"),
      MakeError(StatusCode::kInternal, "BROKEN", "broken"),
      absl::InternalError("no reason, but nothing was admitted either"), absl::CancelledError("cancelled on the way"),
      absl::DeadlineExceededError("the server's own"), absl::UnimplementedError("no such method")};
  for (const absl::Status& refusal : refusals) {
    cluster_.requests.clear();
    cluster_.script = {[&](FakeStream*) { return refusal; }};
    const absl::Status status = Generate({.prompts = {"a"}});
    EXPECT_EQ(status, refusal);
    EXPECT_EQ(ReasonOf(status), ReasonOf(refusal));
    EXPECT_EQ(cluster_.requests.size(), 1u);
  }
  EXPECT_THAT(cluster_.sleeps, IsEmpty());
  EXPECT_THAT(accepted_, IsEmpty());
}

TEST_F(GenerateCallTest, ACoordinatorThatIsAwayIsTriedWithGrowingDelays) {
  std::vector<std::string> told;
  cluster_.script = Script(5, [](FakeStream*) { return Gone(); });
  const absl::Status status =
      Generate({.prompts = {"a"}},
               {.timeout = {}, .stop = {}, .on_retry = [&](const absl::Status& error, absl::Duration delay) {
                  told.push_back(absl::StrCat(std::string(error.message()), " ", absl::FormatDuration(delay)));
                }});
  EXPECT_THAT(status,
              StatusIs(StatusCode::kUnavailable, AllOf(HasSubstr("gave up after 5 tries"), HasSubstr("reset"))));
  EXPECT_THAT(cluster_.sleeps, ElementsAre(absl::Milliseconds(200), absl::Milliseconds(400), absl::Milliseconds(800),
                                           absl::Milliseconds(1600)));
  EXPECT_THAT(told, ElementsAre("connection reset 200ms", "connection reset 400ms", "connection reset 800ms",
                                "connection reset 1.6s"));
}

TEST_F(GenerateCallTest, DelaysEndAtTheLargestAndAreSpreadDownToHalf) {
  cluster_.random = 0.5;
  cluster_.script = Script(10, [](FakeStream*) { return Gone(); });
  EXPECT_THAT(Generate({.prompts = {"a"}}, {}, {.connect_attempts_max = 10, .delay_max = absl::Seconds(2)}),
              StatusIs(StatusCode::kUnavailable));
  EXPECT_EQ(cluster_.sleeps.front(), absl::Milliseconds(150));
  EXPECT_EQ(cluster_.sleeps.back(), absl::Milliseconds(1500));
  EXPECT_THAT(cluster_.sleeps, SizeIs(9));
}

TEST_F(GenerateCallTest, AFullQueueIsWaitedForAsLongAsItSays) {
  cluster_.script = Script(3, [](FakeStream*) { return Busy(absl::Seconds(5)); });
  cluster_.script.push_back([](FakeStream* stream) { return stream->SendAll(); });
  TURBOFLEET_EXPECT_OK(Generate({.prompts = {"a"}, .seed = 1}));
  EXPECT_THAT(cluster_.sleeps, ElementsAre(absl::Seconds(5), absl::Seconds(5), absl::Seconds(5)));
  EXPECT_THAT(Arrived(), ElementsAre("0 a/1"));
}

TEST_F(GenerateCallTest, AFullQueueIsNotWaitedForWithoutEnd) {
  cluster_.script = Script(30, [](FakeStream*) { return Busy(absl::Seconds(1)); });
  const absl::Status status = Generate({.prompts = {"a"}});
  EXPECT_THAT(status, StatusIs(StatusCode::kResourceExhausted, HasSubstr("gave up after 30 tries")));
  EXPECT_EQ(ReasonOf(status), "QUEUE_FULL");
  EXPECT_EQ(cluster_.requests.size(), 30u);
}

TEST_F(GenerateCallTest, AServerThatAsksForMinutesOfPatienceIsTakenAtItsWord) {
  cluster_.script = {[](FakeStream*) { return Busy(absl::Minutes(6)); }};
  EXPECT_EQ(Generate({.prompts = {"a"}}), Busy(absl::Minutes(6)));
  EXPECT_THAT(cluster_.sleeps, IsEmpty());
}

// The heart of it: the stream breaks, and exactly what is missing is asked for, so that it comes out the same.
TEST_F(GenerateCallTest, AfterABrokenStreamOnlyTheMissingIsAskedForWithEveryDefaultPinned) {
  cluster_.script = {[](FakeStream* stream) {
                       stream->Accept();
                       stream->Image(0);    // a/1000
                       stream->Image(4);    // b/1001
                       stream->Failure(7);  // c/1001
                       return Gone();
                     },
                     [](FakeStream* stream) { return stream->SendAll(); },
                     [](FakeStream* stream) { return stream->SendAll(); }};
  TURBOFLEET_ASSERT_OK(Generate({.prompts = {"a", "b", "c"}, .count = 3, .format = FileFormat::kJpeg, .quality = 70}));

  ASSERT_EQ(cluster_.requests.size(), 3u);
  EXPECT_FALSE(cluster_.requests[0].has_seed());
  EXPECT_FALSE(cluster_.requests[0].has_width());
  // a misses 1001 and 1002; b and c miss 1000 and 1002.
  EXPECT_THAT(PromptsOf(cluster_.requests[1]), ElementsAre("a"));
  EXPECT_THAT(SeedsOf(cluster_.requests[1]), ElementsAre(1001, 1002));
  EXPECT_THAT(PromptsOf(cluster_.requests[2]), ElementsAre("b", "c"));
  EXPECT_THAT(SeedsOf(cluster_.requests[2]), ElementsAre(1000, 1002));
  for (const int i : {1, 2}) {
    const v1::GenerateImagesRequest& request = cluster_.requests[static_cast<size_t>(i)];
    EXPECT_FALSE(request.has_seed());
    EXPECT_FALSE(request.has_count());
    EXPECT_EQ(request.width(), 64);
    EXPECT_EQ(request.height(), 64);
    EXPECT_EQ(request.steps(), 1);
    EXPECT_FALSE(request.has_strength());
    EXPECT_EQ(request.model(), absl::StrCat("sha256:", std::string(64, 'a')));
    EXPECT_EQ(request.format(), v1::IMAGE_FORMAT_JPEG);
    EXPECT_EQ(request.quality(), 70);
  }
  // The caller sees one call: one Accepted, every image once, under its first index.
  EXPECT_THAT(accepted_, SizeIs(1));
  EXPECT_THAT(Arrived(), UnorderedElementsAre("0 a/1000", "4 b/1001", "1 a/1001", "2 a/1002", "3 b/1000", "5 b/1002",
                                              "6 c/1000", "8 c/1002"));
  EXPECT_THAT(failures_, SizeIs(1));
  for (const Image& image : images_) EXPECT_EQ(image.prompt_index, image.index / 3);
}

TEST_F(GenerateCallTest, AStartPictureKeepsTheStrengthThatItGot) {
  cluster_.script = {[](FakeStream* stream) {
                       stream->Accept();
                       return Gone();
                     },
                     [](FakeStream* stream) { return stream->SendAll(); }};
  const std::string png = "\x89PNG\r\n\x1a\n....";
  TURBOFLEET_ASSERT_OK(Generate({.prompts = {"a"}, .steps = 2, .init_image = png}));
  EXPECT_EQ(cluster_.requests[1].strength(), 0.5);
  EXPECT_EQ(cluster_.requests[1].init_image(), png);
}

TEST_F(GenerateCallTest, ProgressBetweenBreaksStartsTheCountAgain) {
  // Eleven breaks with one more image each; three tries would be too few if they were counted together.
  for (int i = 0; i < 11; ++i) {
    cluster_.script.push_back([](FakeStream* stream) {
      stream->Accept();
      stream->Image(0);
      return Gone();
    });
  }
  cluster_.script.push_back([](FakeStream* stream) { return stream->SendAll(); });
  TURBOFLEET_ASSERT_OK(Generate({.prompts = {"a"}, .seed = 0, .count = 20}, {}, {.resume_attempts_max = 3}));
  EXPECT_THAT(images_, SizeIs(20));
  EXPECT_THAT(cluster_.sleeps, AllOf(SizeIs(11), Each(absl::Milliseconds(200))));
}

TEST_F(GenerateCallTest, BreaksWithoutProgressEndIt) {
  cluster_.script = Script(3, [](FakeStream* stream) {
    stream->Accept();
    return Gone();
  });
  const absl::Status status = Generate({.prompts = {"a"}}, {}, {.resume_attempts_max = 3});
  EXPECT_THAT(status, StatusIs(StatusCode::kUnavailable, HasSubstr("gave up after 3 tries")));
  EXPECT_THAT(cluster_.sleeps, ElementsAre(absl::Milliseconds(200), absl::Milliseconds(400)));
}

// Proxies and dying servers say all kinds of things; what our coordinator says has a reason.
TEST_F(GenerateCallTest, OnceAdmittedEveryErrorWithoutAReasonIsABrokenStream) {
  for (const absl::Status& broken : {Gone(), absl::CancelledError("RST_STREAM"), absl::InternalError("RST_STREAM"),
                                     absl::UnknownError("stream removed")}) {
    cluster_.requests.clear();
    images_.clear();
    cluster_.script = {[&](FakeStream* stream) {
                         stream->Accept();
                         return broken;
                       },
                       [](FakeStream* stream) { return stream->SendAll(); }};
    TURBOFLEET_EXPECT_OK(Generate({.prompts = {"a"}}));
    EXPECT_THAT(images_, SizeIs(1));
  }
  for (const absl::Status& meant : {MakeError(StatusCode::kInternal, "BROKEN", "broken"),
                                    MakeError(StatusCode::kCancelled, "JOB_CANCELLED", "by an operator"),
                                    absl::DeadlineExceededError("late"), absl::DataLossError("disk")}) {
    cluster_.requests.clear();
    cluster_.script = {[&](FakeStream* stream) {
      stream->Accept();
      return meant;
    }};
    EXPECT_EQ(Generate({.prompts = {"a"}}), meant);
  }
}

TEST_F(GenerateCallTest, AnotherModelAfterTheBreakIsAnErrorAndNotAnotherPicture) {
  cluster_.script = {[](FakeStream* stream) {
                       stream->Accept();
                       return Gone();
                     },
                     [](FakeStream* stream) {
                       v1::GenerateImagesResponse other = stream->Accepted();
                       other.mutable_accepted()->set_model_digest(absl::StrCat("sha256:", std::string(64, 'b')));
                       stream->Send(other);
                       return absl::OkStatus();
                     }};
  const absl::Status status = Generate({.prompts = {"a"}});
  EXPECT_THAT(status, StatusIs(StatusCode::kInternal, HasSubstr("resumed with the model")));
  EXPECT_EQ(ReasonOf(status), kReasonProtocolViolation);
}

// A coordinator that does not keep to the protocol is told apart from a network that breaks: no try would mend it.
TEST_F(GenerateCallTest, ViolationsOfTheProtocolAreNamedAndEndTheCall) {
  const std::map<std::string, std::function<void(FakeStream*)>> violations = {
      {"before it accepted", [](FakeStream* stream) { stream->Image(0); }},
      {"without accepting it", [](FakeStream*) {}},
      {"accepted one call twice", [](FakeStream* stream) { stream->Accept(), stream->Accept(); }},
      {"sent image 1 twice", [](FakeStream* stream) { stream->Accept(), stream->Image(1), stream->Image(1); }},
      {"sent image 0 twice", [](FakeStream* stream) { stream->Accept(), stream->Image(0), stream->Failure(0); }},
      {"sent image 2 of a call for 2",
       [](FakeStream* stream) {
         v1::GenerateImagesResponse beyond = stream->ImageAt(0);
         beyond.mutable_image()->set_index(2);
         stream->Accept(), stream->Send(beyond);
       }},
      {"sent image -1",
       [](FakeStream* stream) {
         v1::GenerateImagesResponse negative = stream->ImageAt(0);
         negative.mutable_image()->set_index(-1);
         stream->Accept(), stream->Send(negative);
       }},
      {"with seed 9 instead of 1",
       [](FakeStream* stream) {
         v1::GenerateImagesResponse other = stream->ImageAt(0);
         other.mutable_image()->set_seed(9);
         stream->Accept(), stream->Send(other);
       }},
      {"file format 77",
       [](FakeStream* stream) {
         v1::GenerateImagesResponse odd = stream->ImageAt(0);
         odd.mutable_image()->set_format(static_cast<v1::ImageFormat>(77));
         stream->Accept(), stream->Send(odd);
       }},
      {"with 1 images missing", [](FakeStream* stream) { stream->Accept(), stream->Image(1); }},
      {"accepted 5 images",
       [](FakeStream* stream) {
         v1::GenerateImagesResponse wrong = stream->Accepted();
         wrong.mutable_accepted()->set_image_count(5);
         stream->Send(wrong);
       }},
      {"accepted 0 images", [](FakeStream* stream) {
         v1::GenerateImagesResponse none = stream->Accepted();
         none.mutable_accepted()->clear_seeds();
         none.mutable_accepted()->set_image_count(0);
         stream->Send(none);
       }}};
  for (const auto& [message, misbehave] : violations) {
    cluster_.requests.clear();
    cluster_.script = {[&misbehave = misbehave](FakeStream* stream) {
      misbehave(stream);
      return absl::OkStatus();
    }};
    const absl::Status status = Generate({.prompts = {"a"}, .seed = 1, .count = 2});
    EXPECT_THAT(status, StatusIs(StatusCode::kInternal, HasSubstr(message)));
    EXPECT_EQ(ReasonOf(status), kReasonProtocolViolation) << message;
    EXPECT_EQ(cluster_.requests.size(), 1u) << message;
  }
}

TEST_F(GenerateCallTest, AnEventOfALaterReleaseIsPassedOver) {
  cluster_.script = {[](FakeStream* stream) {
    stream->Accept();
    stream->Send({});
    stream->Image(0);
    return absl::OkStatus();
  }};
  TURBOFLEET_EXPECT_OK(Generate({.prompts = {"a"}}));
}

TEST_F(GenerateCallTest, EachTryGetsTheTimeThatIsLeft) {
  cluster_.script = Script(2, [](FakeStream*) { return Gone(); });
  cluster_.script.push_back([](FakeStream* stream) { return stream->SendAll(); });
  TURBOFLEET_ASSERT_OK(Generate({.prompts = {"a"}}, {.timeout = absl::Seconds(10)}));
  EXPECT_EQ(cluster_.options[0].timeout, absl::Seconds(10));
  EXPECT_EQ(cluster_.options[1].timeout, absl::Milliseconds(9800));
  EXPECT_EQ(cluster_.options[2].timeout, absl::Milliseconds(9400));
}

TEST_F(GenerateCallTest, WithoutATimeoutNoneIsSent) {
  cluster_.script = {[](FakeStream* stream) { return stream->SendAll(); }};
  TURBOFLEET_ASSERT_OK(Generate({.prompts = {"a"}}));
  EXPECT_EQ(cluster_.options[0].timeout, std::nullopt);
}

TEST_F(GenerateCallTest, AWaitBeyondTheDeadlineIsNotWaited) {
  cluster_.script = Script(1, [](FakeStream*) { return Busy(absl::Seconds(5)); });
  const absl::Status status = Generate({.prompts = {"a"}}, {.timeout = absl::Seconds(5)});
  EXPECT_THAT(status, StatusIs(StatusCode::kDeadlineExceeded, HasSubstr("the queue is full")));
  EXPECT_THAT(cluster_.sleeps, IsEmpty());
}

TEST_F(GenerateCallTest, ADeadlineOfNothingSendsNothing) {
  EXPECT_THAT(Generate({.prompts = {"a"}}, {.timeout = absl::ZeroDuration()}), StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_EQ(cluster_.requests.size(), 0u);
}

TEST_F(GenerateCallTest, AStopBeforeTheCallSendsNothing) {
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THAT(Generate({.prompts = {"a"}}, {.timeout = {}, .stop = stop.get_token(), .on_retry = {}}),
              StatusIs(StatusCode::kCancelled));
  EXPECT_EQ(cluster_.requests.size(), 0u);
}

TEST_F(GenerateCallTest, AStopDuringTheStreamReachesTheWireAndIsNoBrokenStream) {
  std::stop_source stop;
  cluster_.script = {[](FakeStream* stream) {
    stream->Accept();
    stream->Image(0);
    return stream->options.stop.stop_requested() ? absl::CancelledError("by the caller's context")
                                                 : absl::InternalError("nobody stopped");
  }};
  on_event_ = [&] {
    if (!images_.empty()) stop.request_stop();
  };
  EXPECT_THAT(Generate({.prompts = {"a"}, .count = 5}, {.timeout = {}, .stop = stop.get_token(), .on_retry = {}}),
              StatusIs(StatusCode::kCancelled, "cancelled by the caller"));
  EXPECT_THAT(images_, SizeIs(1));  // What had arrived is kept.
  EXPECT_EQ(cluster_.requests.size(), 1u);
}

TEST_F(GenerateCallTest, AStopDuringAWaitEndsIt) {
  std::stop_source stop;
  cluster_.script = Script(1, [](FakeStream*) { return Gone(); });
  cluster_.on_sleep = [&] { stop.request_stop(); };
  EXPECT_THAT(Generate({.prompts = {"a"}}, {.timeout = {}, .stop = stop.get_token(), .on_retry = {}}),
              StatusIs(StatusCode::kCancelled));
  EXPECT_EQ(cluster_.requests.size(), 1u);
}

TEST(ConnectionTest, WorkersAreReadPageByPageWithinOneDeadline) {
  FakeCluster cluster;
  for (const std::string next : {"2", "3", ""}) {
    v1::ListWorkersResponse page;
    page.add_workers()->set_name(absl::StrCat("workers/", cluster.pages.size() + 1));
    page.set_next_page_token(next);
    cluster.pages.push_back(page);
  }
  const auto workers = cluster.Connect()->ListWorkers({.timeout = absl::Seconds(3), .stop = {}});
  TURBOFLEET_ASSERT_OK(workers);
  ASSERT_THAT(*workers, SizeIs(3));
  EXPECT_EQ(workers->at(2).name, "workers/3");
  EXPECT_EQ(cluster.page_requests[0].page_token(), "");
  EXPECT_EQ(cluster.page_requests[2].page_token(), "3");
  EXPECT_EQ(cluster.options[0].timeout, absl::Seconds(3));
}

TEST(ConnectionTest, AListThatDoesNotEndIsGivenUp) {
  FakeCluster cluster;
  cluster.pages.emplace_back().set_next_page_token("again");
  const auto workers = cluster.Connect()->ListWorkers({});
  EXPECT_THAT(workers, StatusIs(StatusCode::kInternal, HasSubstr("does not end")));
  EXPECT_EQ(ReasonOf(workers.status()), kReasonProtocolViolation);
  EXPECT_EQ(cluster.page_requests.size(), 1000u);
}

TEST(MissingImagesTest, GroupsHoldEveryMissingImageOnceAndNoOther) {
  // Every subset of 3 x 3 images: 512 ways to be cut off.
  for (unsigned ended = 0; ended < 512; ++ended) {
    MissingImages missing(3, 3);
    std::set<std::pair<size_t, size_t>> expected;
    for (size_t i = 0; i < 9; ++i) {
      if ((ended >> i & 1) != 0) {
        EXPECT_TRUE(missing.End(i / 3, i % 3));
        EXPECT_FALSE(missing.End(i / 3, i % 3));
      } else {
        expected.emplace(i / 3, i % 3);
      }
    }
    EXPECT_EQ(missing.count(), expected.size());
    std::set<std::pair<size_t, size_t>> asked;
    for (const ImageGroup& group : missing.Groups()) {
      for (const size_t prompt : group.prompts) {
        for (const size_t seed : group.seeds) EXPECT_TRUE(asked.emplace(prompt, seed).second);
      }
    }
    ASSERT_EQ(asked, expected) << ended;
  }
}

}  // namespace
}  // namespace turbofleet::client
