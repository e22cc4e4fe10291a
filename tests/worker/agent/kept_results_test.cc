#include "worker/agent/kept_results.h"

#include <memory>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace turbofleet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

KeptResults::Key KeyOf(int32_t index) { return {"jobs/a", index}; }

Delivery Picture(int64_t bytes) {
  auto message = std::make_shared<internal::worker::v1::DeliverImagesRequest>();
  message->mutable_image();
  return {.message = std::move(message), .made = {}, .bytes = bytes};
}

Delivery Failure() {
  auto message = std::make_shared<internal::worker::v1::DeliverImagesRequest>();
  message->mutable_failure();
  return {.message = std::move(message), .made = {}, .bytes = 1};
}

TEST(KeptResultsTest, KeepsWhatIsExpectedUntilItIsTaken) {
  KeptResults kept(10, 100);
  kept.Expect(KeyOf(1));
  EXPECT_FALSE(kept.Add(KeyOf(1), Picture(5)).has_value());
  EXPECT_EQ(kept.bytes(), 5);
  ASSERT_TRUE(kept.Holds(KeyOf(1)));
  EXPECT_TRUE(kept.Take(KeyOf(1), {.lease = 2, .slot = 3}).has_value());
  EXPECT_FALSE(kept.Holds(KeyOf(1)));
  EXPECT_EQ(kept.bytes(), 0);
}

TEST(KeptResultsTest, WhatIsNotExpectedIsDropped) {
  KeptResults kept(10, 100);
  EXPECT_FALSE(kept.Add(KeyOf(1), Picture(5)).has_value());
  EXPECT_FALSE(kept.Holds(KeyOf(1)));
  EXPECT_EQ(kept.bytes(), 0);
}

TEST(KeptResultsTest, AResultThatSomebodyWaitsForGoesThere) {
  KeptResults kept(10, 100);
  kept.Expect(KeyOf(1));
  EXPECT_FALSE(kept.Take(KeyOf(1), {.lease = 2, .slot = 3}).has_value());
  const auto place = kept.Add(KeyOf(1), Picture(5));
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(place->lease, 2u);
  EXPECT_EQ(place->slot, 3);
  EXPECT_FALSE(kept.Holds(KeyOf(1)));
  EXPECT_EQ(kept.bytes(), 0);
}

TEST(KeptResultsTest, AFailureIsToldToWhomWaitsAndKeptForNobody) {
  KeptResults kept(10, 100);
  kept.Expect(KeyOf(1));
  kept.Expect(KeyOf(2));
  EXPECT_FALSE(kept.Take(KeyOf(2), {.lease = 2, .slot = 3}).has_value());
  EXPECT_FALSE(kept.Add(KeyOf(1), Failure()).has_value());
  EXPECT_TRUE(kept.Add(KeyOf(2), Failure()).has_value());
  EXPECT_THAT(kept.Keys(), IsEmpty());
}

TEST(KeptResultsTest, PlacesAreThoseOfOneSession) {
  KeptResults kept(10, 100);
  kept.Expect(KeyOf(1));
  EXPECT_FALSE(kept.Take(KeyOf(1), {.lease = 2, .slot = 3}).has_value());
  kept.ForgetPlaces();
  EXPECT_FALSE(kept.Add(KeyOf(1), Picture(5)).has_value());
  EXPECT_TRUE(kept.Holds(KeyOf(1)));
}

TEST(KeptResultsTest, TheOldestGoWhenTheRoomIsUsedUp) {
  KeptResults kept(10, 10);
  for (int i = 1; i <= 3; ++i) kept.Expect(KeyOf(i));
  for (int i = 1; i <= 3; ++i) EXPECT_FALSE(kept.Add(KeyOf(i), Picture(5)).has_value());
  EXPECT_THAT(kept.Keys(), ElementsAre(KeyOf(2), KeyOf(3)));
  EXPECT_EQ(kept.bytes(), 10);
}

TEST(KeptResultsTest, NoMoreAreExpectedThanThereIsRoomFor) {
  KeptResults kept(2, 100);
  for (int i = 1; i <= 3; ++i) kept.Expect(KeyOf(i));
  EXPECT_THAT(kept.Keys(), ElementsAre(KeyOf(1), KeyOf(2)));
}

TEST(KeptResultsTest, WhatNobodyWaitsForIsDroppedAtLast) {
  KeptResults kept(10, 100);
  for (int i = 1; i <= 3; ++i) kept.Expect(KeyOf(i));
  EXPECT_FALSE(kept.Add(KeyOf(1), Picture(5)).has_value());
  EXPECT_FALSE(kept.Take(KeyOf(2), {.lease = 2, .slot = 3}).has_value());
  kept.DropUnwanted();
  EXPECT_THAT(kept.Keys(), ElementsAre(KeyOf(2)));
  EXPECT_EQ(kept.bytes(), 0);
}

}  // namespace
}  // namespace turbofleet
