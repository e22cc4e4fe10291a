// A coordinator that does what a test says, without a network.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/lib/connection.h"
#include "client/lib/stub.h"
#include "tests/support/simulated_clock.h"

namespace turbofleet::client {

// The stream of one GenerateImages call as the other side sees it. The calls return false once the caller has refused
// an event, after which the stream has to end.
class FakeStream {
 public:
  using OnResponse = std::function<absl::Status(v1::GenerateImagesResponse* response)>;

  FakeStream(const v1::GenerateImagesRequest& call_request, const CallOptions& call_options,
             const OnResponse& on_response)
      : request(call_request), options(call_options), on_response_(on_response) {}

  bool Send(v1::GenerateImagesResponse response) {
    if (refused_.ok()) refused_ = on_response_(&response);
    return refused_.ok();
  }

  // Admits the request as a coordinator with a model of 64 x 64 does. Seeds that it has to draw start at 1,000.
  bool Accept() { return Send(Accepted()); }
  v1::GenerateImagesResponse Accepted() const {
    v1::GenerateImagesResponse response;
    v1::Accepted& accepted = *response.mutable_accepted();
    accepted.set_job("jobs/1");
    accepted.set_width(request.has_width() ? request.width() : 64);
    accepted.set_height(request.has_height() ? request.height() : 64);
    accepted.set_steps(request.has_steps() ? request.steps() : 1);
    accepted.set_strength(request.has_strength() ? request.strength() : request.init_image().empty() ? 1 : 0.5);
    accepted.set_model_digest(absl::StrCat("sha256:", std::string(64, 'a')));
    accepted.set_model_name("model");
    for (const uint64_t seed : Seeds()) accepted.add_seeds(seed);
    accepted.set_image_count(accepted.seeds_size() * request.prompts_size());
    return response;
  }

  // The image at `index` of this call. Its content is "PROMPT/SEED".
  bool Image(int index) { return Send(ImageAt(index)); }
  v1::GenerateImagesResponse ImageAt(int index) const {
    const std::vector<uint64_t> seeds = Seeds();
    const size_t prompt = static_cast<size_t>(index) / seeds.size();
    const uint64_t seed = seeds[static_cast<size_t>(index) % seeds.size()];
    v1::GenerateImagesResponse response;
    v1::Image& image = *response.mutable_image();
    image.set_index(index);
    image.set_seed(seed);
    image.set_format(v1::IMAGE_FORMAT_PNG);
    image.set_content(absl::StrCat(request.prompts(static_cast<int>(prompt)), "/", seed));
    image.set_worker("workers/1");
    return response;
  }

  bool Failure(int index, const std::string& reason = "RENDER_FAILED") {
    const std::vector<uint64_t> seeds = Seeds();
    v1::GenerateImagesResponse response;
    v1::ImageFailure& failure = *response.mutable_failure();
    failure.set_index(index);
    failure.set_seed(seeds[static_cast<size_t>(index) % seeds.size()]);
    failure.set_code(static_cast<int>(absl::StatusCode::kInternal));
    failure.set_reason(reason);
    failure.set_message("the picture came out broken");
    return Send(std::move(response));
  }

  // What a call ends with that sends everything.
  absl::Status SendAll() {
    Accept();
    const int count = static_cast<int>(Seeds().size()) * request.prompts_size();
    for (int i = 0; i < count && Image(i); ++i) {
    }
    return absl::OkStatus();
  }

  std::vector<uint64_t> Seeds() const {
    if (request.seeds_size() > 0) return {request.seeds().begin(), request.seeds().end()};
    std::vector<uint64_t> seeds;
    for (int i = 0; i < (request.has_count() ? request.count() : 1); ++i) {
      seeds.push_back((request.has_seed() ? request.seed() : 1000) + static_cast<uint64_t>(i));
    }
    return seeds;
  }

  absl::Status refused() const { return refused_; }

  const v1::GenerateImagesRequest request;
  const CallOptions options;

 private:
  const OnResponse on_response_;
  absl::Status refused_;
};

// What the coordinator does with each call, in turn. A call beyond the last of them is a failure of the test.
using Script = std::vector<std::function<absl::Status(FakeStream* stream)>>;

// Thread-compatible. Outlives the connection.
struct FakeCluster {
  Script script;
  std::vector<v1::GenerateImagesRequest> requests;
  std::vector<CallOptions> options;
  std::vector<absl::Duration> sleeps;
  std::function<void()> on_sleep = [] {};
  double random = 0;
  std::shared_ptr<SimulatedClock> clock = std::make_shared<SimulatedClock>();

  // Pages of workers, and what every page says of the next.
  std::vector<v1::ListWorkersResponse> pages;
  std::vector<v1::ListWorkersRequest> page_requests;

  std::unique_ptr<Connection> Connect(const RetryPolicy& policy = {});
};

class FakeStub : public Stub {
 public:
  explicit FakeStub(FakeCluster* cluster) : cluster_(cluster) {}

  absl::Status GenerateImages(const v1::GenerateImagesRequest& request, const CallOptions& options,
                              const FakeStream::OnResponse& on_response) override {
    const size_t turn = cluster_->requests.size();
    cluster_->requests.push_back(request);
    cluster_->options.push_back(options);
    if (turn >= cluster_->script.size()) return absl::DataLossError("the test did not expect another call");
    FakeStream stream(request, options, on_response);
    const absl::Status status = cluster_->script[turn](&stream);
    // As over the wire: the caller's refusal is what ends the call.
    return stream.refused().ok() ? status : stream.refused();
  }

  absl::StatusOr<v1::Cluster> GetCluster(const CallOptions& options) override {
    cluster_->options.push_back(options);
    v1::Cluster cluster;
    cluster.set_version("1.2.3");
    return cluster;
  }

  absl::StatusOr<v1::ListWorkersResponse> ListWorkers(const v1::ListWorkersRequest& request,
                                                      const CallOptions& options) override {
    cluster_->page_requests.push_back(request);
    cluster_->options.push_back(options);
    return cluster_->pages[std::min(cluster_->page_requests.size(), cluster_->pages.size()) - 1];
  }

 private:
  FakeCluster* const cluster_;
};

inline std::unique_ptr<Connection> FakeCluster::Connect(const RetryPolicy& policy) {
  return std::make_unique<Connection>(Connection::Dependencies{.stub = std::make_unique<FakeStub>(this),
                                                               .clock = clock,
                                                               .sleep =
                                                                   [this](absl::Duration time, std::stop_token) {
                                                                     sleeps.push_back(time);
                                                                     clock->Advance(time);
                                                                     on_sleep();
                                                                   },
                                                               .random = [this] { return random; }},
                                      policy);
}

}  // namespace turbofleet::client
