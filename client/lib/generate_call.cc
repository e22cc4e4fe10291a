#include "client/lib/generate_call.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/lib/convert.h"
#include "common/status.h"

namespace turbofleet::client {

GenerateCall::GenerateCall(const Connection::Dependencies& dependencies, const RetryPolicy& policy,
                           const GenerateRequest& request, const GenerateOptions& options,
                           const std::function<void(GenerateEvent event)>& on_event)
    : stub_(*dependencies.stub),
      retrier_(dependencies, policy, options),
      on_event_(on_event),
      request_(ToProto(request)) {}

absl::Status GenerateCall::Run() {
  while (true) {
    TURBOFLEET_RETURN_IF_ERROR(retrier_.Check());
    const size_t missing_before = missing_.has_value() ? missing_->count() : 0;
    const bool accepted_before = accepted_.has_value();
    const absl::Status status = Try();
    if (status.ok()) return status;
    const bool progress = accepted_.has_value() && (!accepted_before || missing_->count() < missing_before);
    TURBOFLEET_RETURN_IF_ERROR(retrier_.WaitToRetry(status, /*resumable=*/accepted_.has_value(), progress));
  }
}

absl::Status GenerateCall::Try() {
  if (!accepted_.has_value()) {
    TURBOFLEET_RETURN_IF_ERROR(TryGroup(request_, nullptr));
  } else {
    for (const ImageGroup& group : missing_->Groups()) {
      TURBOFLEET_RETURN_IF_ERROR(TryGroup(RequestFor(group), &group));
    }
  }
  if (!accepted_.has_value()) return ProtocolViolation("ended the call without accepting it");
  if (missing_->count() > 0) {
    return ProtocolViolation(absl::StrCat("ended the call with ", missing_->count(), " images missing"));
  }
  return absl::OkStatus();
}

absl::Status GenerateCall::TryGroup(const v1::GenerateImagesRequest& request, const ImageGroup* group) {
  stream_accepted_ = false;
  return stub_.GenerateImages(request, retrier_.NextCall(), [this, group](v1::GenerateImagesResponse* response) {
    return OnResponse(group, response);
  });
}

absl::Status GenerateCall::OnResponse(const ImageGroup* group, v1::GenerateImagesResponse* response) {
  if (response->event_case() != v1::GenerateImagesResponse::kAccepted && !stream_accepted_) {
    return ProtocolViolation("sent an image before it accepted the call");
  }
  switch (response->event_case()) {
    case v1::GenerateImagesResponse::kAccepted:
      return OnAccepted(response->accepted());
    case v1::GenerateImagesResponse::kImage: {
      TURBOFLEET_ASSIGN_OR_RETURN(Image image, TakeFromProto(response->mutable_image()));
      TURBOFLEET_ASSIGN_OR_RETURN(image.index, EndImage(group, image.index, image.seed));
      image.prompt_index = image.index / static_cast<int64_t>(accepted_->seeds.size());
      image.job = job_;
      on_event_(std::move(image));
      return absl::OkStatus();
    }
    case v1::GenerateImagesResponse::kFailure: {
      ImageFailure failure = FromProto(response->failure());
      TURBOFLEET_ASSIGN_OR_RETURN(failure.index, EndImage(group, failure.index, failure.seed));
      failure.prompt_index = failure.index / static_cast<int64_t>(accepted_->seeds.size());
      on_event_(std::move(failure));
      return absl::OkStatus();
    }
    case v1::GenerateImagesResponse::EVENT_NOT_SET:
      break;
  }
  // An event of a later release that this one can do without.
  return absl::OkStatus();
}

absl::Status GenerateCall::OnAccepted(const v1::Accepted& accepted) {
  if (stream_accepted_) return ProtocolViolation("accepted one call twice");
  stream_accepted_ = true;
  job_ = accepted.job();
  if (accepted_.has_value()) {
    if (accepted.model_digest() != accepted_->model_digest) {
      return ProtocolViolation(
          absl::StrCat("resumed with the model ", accepted.model_digest(), " instead of ", accepted_->model_digest));
    }
    return absl::OkStatus();
  }
  const int64_t count = static_cast<int64_t>(accepted.seeds_size()) * request_.prompts_size();
  if (count < 1 || accepted.image_count() != count) {
    return ProtocolViolation(absl::StrCat("accepted ", accepted.image_count(), " images with ", accepted.seeds_size(),
                                          " seeds for each of ", request_.prompts_size(), " prompts"));
  }
  accepted_ = FromProto(accepted);
  missing_.emplace(request_.prompts_size(), accepted_->seeds.size());
  request_.set_width(accepted_->width);
  request_.set_height(accepted_->height);
  request_.set_steps(accepted_->steps);
  if (!request_.init_image().empty()) request_.set_strength(accepted_->strength);
  request_.set_model(accepted_->model_digest);
  on_event_(*accepted_);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> GenerateCall::EndImage(const ImageGroup* group, int64_t index, uint64_t seed) {
  const size_t seeds = group == nullptr ? accepted_->seeds.size() : group->seeds.size();
  const size_t prompts = group == nullptr ? request_.prompts_size() : group->prompts.size();
  if (index < 0 || static_cast<size_t>(index) >= seeds * prompts) {
    return ProtocolViolation(absl::StrCat("sent image ", index, " of a call for ", seeds * prompts));
  }
  size_t prompt_index = static_cast<size_t>(index) / seeds;
  size_t seed_index = static_cast<size_t>(index) % seeds;
  if (group != nullptr) {
    prompt_index = group->prompts[prompt_index];
    seed_index = group->seeds[seed_index];
  }
  if (accepted_->seeds[seed_index] != seed) {
    return ProtocolViolation(
        absl::StrCat("sent image ", index, " with seed ", seed, " instead of ", accepted_->seeds[seed_index]));
  }
  if (!missing_->End(prompt_index, seed_index)) return ProtocolViolation(absl::StrCat("sent image ", index, " twice"));
  return static_cast<int64_t>(prompt_index * accepted_->seeds.size() + seed_index);
}

v1::GenerateImagesRequest GenerateCall::RequestFor(const ImageGroup& group) const {
  v1::GenerateImagesRequest request = request_;
  request.clear_seed();
  request.clear_count();
  request.clear_seeds();
  request.clear_prompts();
  for (const size_t prompt : group.prompts) request.add_prompts(request_.prompts(static_cast<int>(prompt)));
  for (const size_t seed : group.seeds) request.add_seeds(accepted_->seeds[seed]);
  return request;
}

}  // namespace turbofleet::client
