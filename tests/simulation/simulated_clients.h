// Clients that create durable jobs until they are answered, watch them over streams that break anywhere, release what
// they have, cancel and delete.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/errors.h"
#include "coordinator/store/in_memory_job_store.h"
#include "tests/coordinator/fake_sinks.h"
#include "tests/simulation/simulated_coordinators.h"
#include "tests/simulation/simulated_workers.h"

namespace turbofleet {

struct ClientFaults {
  int break_stream = 0;
  int cancel = 0;
  int slow = 0;  // Share of the steps in which it reads nothing.
};

class SimulatedClients {
 public:
  SimulatedClients(Dice* dice, SimulatedCoordinators* coordinators) : dice_(dice), coordinators_(coordinators) {}

  // A client whose job may keep little has to release what it has, which it can only do as results come.
  void Add(int prompts, int seeds, int32_t poison, bool keeps_little) {
    auto client = std::make_unique<Client>();
    client->request_id = absl::StrCat("r", clients_.size());
    client->tenant = absl::StrCat("t", dice_->UpTo(1));
    client->prompts = prompts;
    client->seeds = seeds;
    client->images = prompts * seeds;
    client->ordered = dice_->Happens(400) && !keeps_little;
    client->releases = dice_->Happens(600) || keeps_little;
    client->timeout = dice_->Happens(50) ? absl::Seconds(dice_->UpTo(30)) : absl::InfiniteDuration();
    client->seen.resize(client->images);
    client->poison = poison;
    clients_.push_back(std::move(client));
  }

  void Step(const ClientFaults& faults) {
    for (const auto& client : clients_) StepOne(*client, faults);
  }

  bool Done() const {
    for (const auto& client : clients_) {
      if (!client->done) return false;
    }
    return true;
  }
  std::string Undone() const {
    std::string text;
    for (const auto& client : clients_) {
      if (client->done) continue;
      absl::StrAppend(&text, " ", client->request_id, "(job ", client->job, ", ", client->images, " images, position ",
                      client->position, ", ordered ", client->ordered, ")");
    }
    return text;
  }
  size_t size() const { return clients_.size(); }
  int64_t images_seen() const { return images_seen_; }
  int64_t failures_seen() const { return failures_seen_; }
  int64_t resumed() const { return resumed_; }

 private:
  struct Follower : JobFollower {
    void PostRecord(const JobRecord& news, bool waits) override {
      if (record.has_value() && record->state != JobState::kRunning) return;
      if (!record.has_value() || news.state != JobState::kRunning || news.LastSequence() >= record->LastSequence()) {
        record = news;
      }
      waits_for_release = waits;
    }
    void PostEnd(const absl::Status& status) override { ended = status; }
    void Flush() override {}
    std::optional<JobRecord> record;
    bool waits_for_release = false;
    bool found = false;
    std::optional<absl::Status> ended;
  };
  // A call that is on its way; lost if the coordinator's life ends.
  template <typename T>
  struct Call {
    int serial = 0;
    std::optional<absl::StatusOr<T>> answer;
  };
  struct Client {
    std::string request_id, tenant;
    int prompts = 0, seeds = 0, images = 0;
    bool ordered = false, releases = false, cancelled = false, done = false;
    absl::Duration timeout;
    int32_t poison = -1;
    std::string job;
    std::shared_ptr<Call<JobView>> creating;
    int serial = 0;  // Where it watches.
    std::shared_ptr<Follower> follower;
    std::shared_ptr<Call<ResultReader::Result>> reading;
    int64_t nothing_at = -1, reading_at = 0;
    int64_t position = 0;
    const std::shared_ptr<int64_t> released_to = std::make_shared<int64_t>(0);
    std::vector<bool> seen;
    std::optional<JobRecord> end;
  };

  void StepOne(Client& client, const ClientFaults& faults) {
    if (client.done) return;
    if (client.job.empty()) {
      Create(client);
    } else {
      Watch(client, faults);
    }
  }

  void Create(Client& client) {
    if (client.creating != nullptr) {
      Call<JobView>& call = *client.creating;
      if (call.answer.has_value() && call.answer->ok()) {
        client.job = (*call.answer)->record.id;
        EXPECT_EQ((*call.answer)->record.spec->ImageCount(), client.images);
        dice_->Trace(coordinators_->step(), client.request_id, " is job ", client.job, " of ", client.images);
      }
      if (call.answer.has_value() || coordinators_->Find(call.serial) == nullptr || dice_->Happens(10)) {
        client.creating.reset();
      }
      return;
    }
    const int serial = coordinators_->Any();
    if (serial == 0) return;
    CoordinatorNode* node = coordinators_->Find(serial);
    client.creating = std::make_shared<Call<JobView>>();
    client.creating->serial = serial;
    JobOrder order = {.tenant = client.tenant, .request_id = client.request_id, .timeout = client.timeout};
    order.images.first_seed = 1;
    order.images.seeds_per_prompt = client.seeds;
    order.images.tenant = client.tenant;
    order.images.job_class = JobClass::kNormal;
    const std::shared_ptr<Call<JobView>> call = client.creating;
    const int prompts = client.prompts;
    node->desk.Begin(std::move(order), [node, call, prompts](absl::StatusOr<JobDesk::Draft> begun) {
      if (!begun.ok()) {
        call->answer = begun.status();
        return;
      }
      const auto draft = std::make_shared<JobDesk::Draft>(*std::move(begun));
      std::vector<std::string> texts;
      for (int i = 0; i < prompts; ++i) texts.push_back(absl::StrCat("prompt ", i));
      node->desk.Append(draft.get(), std::move(texts), [node, call, draft](const absl::Status& status) {
        if (!status.ok()) {
          node->desk.Drop(*draft);
          call->answer = status;
          return;
        }
        node->desk.Submit(*draft, "content", [call](absl::StatusOr<JobView> job) { call->answer = std::move(job); });
      });
    });
  }

  void Leave(Client& client) {
    if (CoordinatorNode* node = coordinators_->Find(client.serial); node != nullptr && client.follower != nullptr) {
      node->dispatcher.Unfollow(client.job, client.follower);
    }
    client.follower.reset();
    client.reading.reset();
    client.nothing_at = -1;
    client.serial = 0;
  }

  void Follow(Client& client) {
    client.serial = coordinators_->Any();
    if (client.serial == 0) return;
    ++resumed_;
    CoordinatorNode* node = coordinators_->Find(client.serial);
    client.follower = std::make_shared<Follower>();
    node->dispatcher.Follow(client.job, client.follower);
    node->desk.Get(client.tenant, client.job, [follower = client.follower](const absl::StatusOr<JobView>& view) {
      if (view.ok()) {
        follower->PostRecord(view->record, view->waits_for_release);
        follower->found = true;
      } else {
        follower->PostEnd(view.status());
      }
    });
  }

  void Watch(Client& client, const ClientFaults& faults) {
    CoordinatorNode* node = coordinators_->Find(client.serial);
    if (client.follower == nullptr || node == nullptr || dice_->Happens(faults.break_stream)) {
      Leave(client);
      Follow(client);
      return;
    }
    if (!coordinators_->Runs(client.serial)) return;
    Follower& follower = *client.follower;
    if (follower.ended.has_value()) {
      EXPECT_NE(ReasonOf(*follower.ended), "JOB_NOT_FOUND") << client.job << " is gone";
      Leave(client);
      return;
    }
    if (!follower.found) return;
    if (!client.cancelled && dice_->Happens(faults.cancel)) {
      client.cancelled = true;
      node->desk.Cancel(client.tenant, client.job, [](const absl::StatusOr<JobView>&) {});
    }
    if (client.reading != nullptr) {
      TakeRead(client);
    } else if (!dice_->Happens(faults.slow)) {
      Proceed(client, *node);
    }
  }

  void Proceed(Client& client, CoordinatorNode& node) {
    const JobRecord& record = *client.follower->record;
    const bool caught_up = client.ordered
                               ? client.position == client.images || client.nothing_at == record.LastSequence()
                               : client.position == record.LastSequence();
    if (client.releases && *client.released_to < client.position && (dice_->Happens(200) || caught_up)) {
      node.desk.Release(client.tenant, client.job, {.ordered = client.ordered, .position = client.position},
                        [to = client.released_to, position = client.position](const absl::StatusOr<JobView>& job) {
                          if (job.ok()) *to = position;
                        });
    }
    if (caught_up) {
      if (record.state != JobState::kRunning) End(client, record);
      return;
    }
    client.reading = std::make_shared<Call<ResultReader::Result>>();
    client.reading_at = record.LastSequence();
    node.reader.Start(
        {.job = client.job,
         .ordered = client.ordered,
         .position = client.position,
         .image_count = client.images,
         .images_max = 1 + dice_->UpTo(255),
         .bytes_max = 10'000},
        [call = client.reading](absl::StatusOr<ResultReader::Result> result) { call->answer = std::move(result); });
  }

  void TakeRead(Client& client) {
    if (!client.reading->answer.has_value()) return;
    const absl::StatusOr<ResultReader::Result> result = *std::move(client.reading->answer);
    client.reading.reset();
    if (!result.ok()) {
      EXPECT_TRUE(absl::IsUnavailable(result.status()) || absl::IsAborted(result.status())) << result.status();
      Leave(client);
      return;
    }
    if (result->images.empty()) client.nothing_at = client.reading_at;
    // The stream may break behind each image; what came before is kept.
    const auto state = coordinators_->Database();
    for (const ResultReader::Read& image : result->images) {
      Take(client, *state.jobs.at(client.job), image);
      if (dice_->Happens(5)) {
        Leave(client);
        return;
      }
    }
    EXPECT_EQ(client.position, result->position);
  }

  void Take(Client& client, const InMemoryDatabase::Job& job, const ResultReader::Read& image) {
    int32_t index = 0;
    if (const auto* finished = std::get_if<FinishedImage>(&image.outcome)) {
      index = finished->index;
      EXPECT_EQ(finished->picture.content, SimulatedPicture(absl::StrCat("jobs/", client.job), index));
      EXPECT_NE(index, client.poison);
      ++images_seen_;
    } else {
      const auto& failed = std::get<UnfinishedImage>(image.outcome);
      EXPECT_NE(failed.error.reason, "PICTURE_LOST") << failed.error.message;
      index = failed.index;
      ++failures_seen_;
    }
    EXPECT_FALSE(client.seen.at(index)) << "image " << index << " of " << client.job << " came twice";
    client.seen[index] = true;
    EXPECT_TRUE(job.shards.at(index / kShardImages).ended[index % kShardImages]) << "it is not in the store";
    EXPECT_LE(image.sequence, job.record.LastSequence());
    if (client.ordered) {
      EXPECT_EQ(index, client.position) << "out of order";
    } else {
      EXPECT_EQ(image.sequence, client.position + 1) << "a gap";
    }
    client.position = client.ordered ? int64_t{index} + 1 : image.sequence;
  }

  void End(Client& client, const JobRecord& record) {
    const auto seen = std::count(client.seen.begin(), client.seen.end(), true);
    if (record.state == JobState::kCompleted) {
      EXPECT_EQ(seen, client.images) << client.job;
      EXPECT_EQ(record.LastSequence(), client.images);
    } else {
      EXPECT_TRUE(client.cancelled || client.timeout < absl::InfiniteDuration());
    }
    if (!client.ordered) {
      EXPECT_EQ(seen, record.LastSequence());
    }
    client.done = true;
    Leave(client);
  }

  Dice* const dice_;
  SimulatedCoordinators* const coordinators_;
  std::vector<std::unique_ptr<Client>> clients_;
  int64_t images_seen_ = 0, failures_seen_ = 0, resumed_ = 0;
};

}  // namespace turbofleet
