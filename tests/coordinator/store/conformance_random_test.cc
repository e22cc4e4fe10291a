// Random calls, of the store and of the model in memory, have to be answered alike.
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "tests/coordinator/store/conformance_test.h"
#include "tests/coordinator/store/in_memory_backend.h"
#include "tests/coordinator/store/store_samples.h"

namespace turbofleet {
namespace {

template <typename T>
std::string TextOf(const absl::StatusOr<T>& result);
std::string TextOf(int64_t number) { return absl::StrCat(number); }
std::string TextOf(const std::string& text) { return text; }
template <typename T>
std::string TextOf(const T& value) {
  return ToText(value);
}
template <typename T>
std::string TextOf(const std::vector<T>& values) {
  return absl::StrJoin(values, "\n", [](std::string* out, const T& value) { out->append(TextOf(value)); });
}
std::string TextOf(const std::map<std::string, TenantUsage>& usage) {
  return absl::StrJoin(usage, "\n", [](std::string* out, const auto& tenant) {
    absl::StrAppend(out, tenant.first, " ", ToText(tenant.second));
  });
}
// Messages may differ.
std::string TextOf(const absl::Status& status) { return absl::StatusCodeToString(status.code()); }
template <typename T>
std::string TextOf(const absl::StatusOr<T>& result) {
  return result.ok() ? TextOf(*result) : TextOf(result.status());
}

using Call = std::function<std::string(JobStore&)>;

// Makes calls from a seed. There are few ids, tenants and packs, so that they meet.
class RandomCalls {
 public:
  explicit RandomCalls(uint32_t seed) : random_(seed) {}

  int Pick(int count) { return static_cast<int>(random_() % static_cast<uint32_t>(count)); }

  // With what it is, for the message of a failed test.
  std::pair<std::string, Call> Next() {
    ++now_;
    switch (Pick(10)) {
      case 0:
        return Draft();
      case 1:
        return Look();
      case 2:
      case 3:
        return Page();
      case 4:
        return Release();
      default:
        return Work();
    }
  }

 private:
  std::string Id() { return SampleId(1 + Pick(4)); }
  std::string Input() { return Pick(2) == 0 ? "" : SampleSha256(1 + Pick(2)); }
  std::string Pack() { return absl::StrCat("pack-", Pick(3)); }

  // A whole submission, or a part of one.
  std::pair<std::string, Call> Draft() {
    const JobRecord record = MakeRecord({.number = 1 + Pick(4),
                                         .tenant = Pick(2) == 0 ? "anna" : "bert",
                                         .request_id = Pick(3) == 0 ? "r" : "",
                                         .seeds_per_prompt = 1 + Pick(3),
                                         .init_image_sha256 = Input(),
                                         .labels = {{"k", absl::StrCat(Pick(2))}},
                                         .create_time = At(Pick(5))});
    const std::vector<std::string> prompts = MakePrompts(Pick(2) == 0 ? Pick(4) : 700, absl::StrCat("at ", now_));
    const std::string fingerprint = absl::StrCat(Pick(2));
    const int parts = 1 + Pick(31);
    return {absl::StrCat("draft ", record.id, " parts ", parts), [=](JobStore& store) {
              std::string text;
              if ((parts & 1) != 0) absl::StrAppend(&text, TextOf(store.BeginDraft(record)), "\n");
              if ((parts & 2) != 0) {
                absl::StrAppend(&text, TextOf(store.PutInput(record.spec->init_image_sha256, "content")), "\n");
              }
              if ((parts & 4) != 0) absl::StrAppend(&text, TextOf(store.AppendPrompts(record.id, prompts)), "\n");
              if ((parts & 8) != 0) absl::StrAppend(&text, TextOf(store.Submit(record.id, fingerprint)), "\n");
              if ((parts & 24) == 16) absl::StrAppend(&text, TextOf(store.DropDraft(record.id)), "\n");
              return text;
            }};
  }

  std::pair<std::string, Call> Look() {
    const std::string id = Id();
    const std::string sha = SampleSha256(1 + Pick(2));
    const int32_t first = Pick(1'500);
    const int32_t count = Pick(800);
    return {absl::StrCat("look at ", id), [=](JobStore& store) {
              return absl::StrCat(TextOf(store.Find(id)), "\n", TextOf(store.ReadPrompts(id, first, count)), "\n",
                                  TextOf(store.ReadPrompts(id, 0, 1)), "\n", TextOf(store.ReadInput(sha)), "\n",
                                  TextOf(store.Usage()));
            }};
  }

  std::pair<std::string, Call> Page() {
    JobQuery query;
    if (Pick(2) == 0) query.tenant = Pick(2) == 0 ? "anna" : "bert";
    if (Pick(2) == 0) query.state = static_cast<JobState>(Pick(4));
    if (Pick(3) == 0) query.labels = {{"k", absl::StrCat(Pick(2))}};
    if (Pick(2) == 0) query.after = {At(Pick(5)), Id()};
    const int32_t max = Pick(4);
    const std::string id = Id();
    const absl::Time due = At(now_) + (Pick(2) == 0 ? absl::Hours(24) : absl::ZeroDuration());
    return {"lists", [=](JobStore& store) {
              return absl::StrCat(TextOf(store.List(query, max)), "\n", TextOf(store.ListRunning(id, max)), "\n",
                                  TextOf(store.ListDue(due, max)));
            }};
  }

  std::pair<std::string, Call> Release() {
    const std::string id = Id();
    const int64_t sequence = Pick(30);
    const int32_t index = Pick(2'100);
    const int32_t max = Pick(20);
    const int what = Pick(6);
    const absl::Time now = At(now_);
    return {absl::StrCat("release ", id, " ", sequence, " or so"), [=](JobStore& store) {
              std::string text = absl::StrCat(TextOf(store.ReadResults(id, sequence, max)), "\n",
                                              TextOf(store.ReadShardResults(id, max % 3)), "\n",
                                              TextOf(store.SequenceBeforeIndex(id, index)), "\n");
              if (what < 3) absl::StrAppend(&text, TextOf(store.ReleaseResults(id, sequence)), "\n");
              if (what == 3) absl::StrAppend(&text, TextOf(store.End(id, JobState::kCancelled, now)), "\n");
              if (what >= 4) absl::StrAppend(&text, TextOf(store.Delete(id)), "\n");
              return text;
            }};
  }

  std::pair<std::string, Call> Work() {
    const std::string id = Id();
    const int32_t shard = Pick(3);
    const int what = Pick(8);
    if (what == 0) {
      const std::vector<int32_t> shards = {shard, Pick(3)};
      return {"unclaim", [=](JobStore& store) { return TextOf(store.Unclaim(id, shards)); }};
    }
    if (what < 3) {
      const int32_t max = Pick(3);
      return {absl::StrCat("claim ", max), [=](JobStore& store) { return TextOf(store.Claim(id, max)); }};
    }
    std::vector<ShardResults> all;
    for (int i = Pick(4); i >= 0; --i) {
      ShardResults results = {.job = Pick(3) == 0 ? Id() : id, .shard = Pick(2) == 0 ? shard : Pick(3)};
      for (int j = Pick(5); j > 0; --j) {
        const int32_t index = results.shard * kShardImages + Pick(12);
        results.results.push_back(Pick(4) == 0 ? MakeFailure(index) : MakePicture(index, Pack(), 1 + Pick(100)));
      }
      all.push_back(std::move(results));
    }
    const absl::Time now = At(now_);
    return {absl::StrCat("commit ", all.size()), [=](JobStore& store) { return TextOf(store.CommitAll(all, now)); }};
  }

  std::mt19937 random_;
  int64_t now_ = 0;
};

// The same coordinators, twice.
class Twins {
 public:
  explicit Twins(const StoreKind& kind)
      : backend_(kind.create()), first_(backend_->Open("anna")), shared_(first_->shared()), model_(shared_) {
    stores_[0] = {std::move(first_), model_.Open("anna")};
    if (shared_) stores_[1] = {backend_->Open("bert"), model_.Open("bert")};
  }

  // Calls one coordinator of each, or lets something happen to it. Returns both answers.
  std::pair<std::string, std::string> Step(RandomCalls& calls, std::string& what) {
    const int which = shared_ ? calls.Pick(2) : 0;
    auto& [store, model] = stores_[which];
    const int event = calls.Pick(40);
    if (event == 0) {
      what = "restart";
      store.reset();
      model.reset();
      stores_[which] = {backend_->Open(Name(which)), model_.Open(Name(which))};
      return {};
    }
    if (event == 1 && shared_) {
      what = "take over";
      backend_->LapseLeases();
      model_.LapseLeases();
      std::pair<std::string, std::string> answers = {TextOf(store->TakeOverFromDead()),
                                                     TextOf(model->TakeOverFromDead())};
      stores_[1 - which] = {};
      stores_[1 - which] = {backend_->Open(Name(1 - which)), model_.Open(Name(1 - which))};
      return answers;
    }
    std::vector<std::pair<std::string, Call>> body;
    for (int i = event < 10 ? 1 + calls.Pick(4) : 1; i > 0; --i) body.push_back(calls.Next());
    what = absl::StrJoin(body, ", ", [](std::string* out, const auto& call) { out->append(call.first); });
    const auto run = [&body, event](JobStore& on) {
      std::string text;
      const auto all = [&] {
        for (const auto& [name, call] : body) absl::StrAppend(&text, call(on), "\n");
        // Now and then all of it is undone.
        return event < 2 ? absl::CancelledError("undone") : absl::OkStatus();
      };
      if (event >= 10) {
        all().IgnoreError();
      } else {
        absl::StrAppend(&text, TextOf(on.Transact(all)));
      }
      return text;
    };
    return {run(*store), run(*model)};
  }

 private:
  static std::string Name(int which) { return which == 0 ? "anna" : "bert"; }

  const std::unique_ptr<StoreBackend> backend_;
  std::unique_ptr<JobStore> first_;
  const bool shared_;
  InMemoryBackend model_;
  std::array<std::pair<std::unique_ptr<JobStore>, std::unique_ptr<JobStore>>, 2> stores_;
};

TEST_P(JobStoreTest, AnswersRandomCallsAsTheModelDoes) {
  store_.reset();
  for (uint32_t seed = 1; seed <= 10; ++seed) {
    RandomCalls calls(seed);
    Twins twins(GetParam());
    for (int step = 0; step < 250; ++step) {
      std::string what;
      const auto [answer, expected] = twins.Step(calls, what);
      ASSERT_EQ(answer, expected) << "seed " << seed << ", step " << step << ": " << what;
    }
  }
}

}  // namespace
}  // namespace turbofleet
