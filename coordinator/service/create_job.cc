// CreateJob: a job comes in, a message at a time, and each is in the store before the next is read.
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/errors.h"
#include "common/sha256.h"
#include "common/status.h"
#include "coordinator/service/job_calls.h"
#include "coordinator/service/translate.h"
#include "coordinator/service/validate.h"
#include "coordinator/service/validate_jobs.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace turbofleet {
namespace {

constexpr RpcObserver::Method kCreateJob = {
    .type = "client_stream", .service = "turbofleet.v1.ImageService", .method = "CreateJob"};

// Stands for all that a client sent, however it cut the prompts into messages.
class Fingerprint {
 public:
  void AddJob(const v1::JobSpec& spec) {
    v1::JobSpec rest = spec;
    rest.mutable_images()->clear_prompts();
    std::string bytes;
    {
      google::protobuf::io::StringOutputStream stream(&bytes);
      google::protobuf::io::CodedOutputStream coded(&stream);
      coded.SetSerializationDeterministic(true);
      rest.SerializeToCodedStream(&coded);
    }
    Add(bytes);
    for (const std::string& prompt : spec.images().prompts()) Add(prompt);
  }
  void AddPrompts(const v1::PromptList& list) {
    for (const std::string& prompt : list.prompts()) Add(prompt);
  }
  std::string Digest() { return sha256_.HexDigest(); }

 private:
  void Add(const std::string& bytes) {
    const std::string length = absl::StrCat(bytes.size(), ":");
    sha256_.Update(length.data(), length.size());
    sha256_.Update(bytes.data(), bytes.size());
  }
  Sha256 sha256_;
};

// At most one thing goes on at a time: a read, or work on the store. The stream is finished once.
class CreateJobReactor : public grpc::ServerReadReactor<v1::CreateJobRequest> {
 public:
  CreateJobReactor(const JobCallParts& parts, grpc::CallbackServerContext* context, v1::Job* response)
      : parts_(parts), context_(context), response_(response), call_(parts.observer, kCreateJob) {}

  void Start() {
    absl::StatusOr<std::string> tenant = parts_.tenants->Of(*context_);
    if (!tenant.ok()) {
      End(tenant.status());
      return;
    }
    tenant_ = *std::move(tenant);
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (ok) {
      Receive();
    } else if (context_->IsCancelled()) {
      End(absl::CancelledError("the client cancelled the call"));
    } else if (!draft_.has_value()) {
      End(InvalidField("part", "no message came; the first has job"));
    } else {
      Submit();
    }
  }

  void OnDone() override {
    call_.Handled(code_);
    delete this;
  }

 private:
  void Receive() {
    const absl::Status known = CheckUnknownFields(request_);
    if (!known.ok()) {
      End(known);
    } else if (request_.has_job() && !draft_.has_value()) {
      Begin(request_.job());
    } else if (request_.has_prompts() && draft_.has_value()) {
      Append(request_.prompts());
    } else {
      End(InvalidField("part", "the first message has job, all others prompts"));
    }
  }

  void Begin(const v1::JobSpec& spec) {
    absl::StatusOr<JobOrder> order = ParseJobSpec(spec);
    if (!order.ok()) {
      End(order.status());
      return;
    }
    fingerprint_.AddJob(spec);
    order->tenant = tenant_;
    parts_.desk->Begin(*std::move(order), [this](absl::StatusOr<JobDesk::Draft> draft) {
      if (draft.ok()) draft_ = *std::move(draft);
      Continue(draft.status());
    });
  }

  void Append(const v1::PromptList& list) {
    absl::StatusOr<std::vector<std::string>> prompts = ParsePromptList(list);
    if (!prompts.ok()) {
      End(prompts.status());
      return;
    }
    fingerprint_.AddPrompts(list);
    parts_.desk->Append(&*draft_, *std::move(prompts), [this](const absl::Status& status) { Continue(status); });
  }

  void Continue(const absl::Status& status) {
    if (status.ok()) {
      StartRead(&request_);
    } else {
      End(status);
    }
  }

  void Submit() {
    const JobDesk::Draft draft = *std::move(draft_);
    draft_.reset();
    parts_.desk->Submit(draft, fingerprint_.Digest(), [this](const absl::StatusOr<JobView>& job) {
      if (job.ok()) *response_ = JobProto(*job);
      End(job.status());
    });
  }

  void End(const absl::Status& status) {
    if (draft_.has_value()) parts_.desk->Drop(*draft_);
    if (const std::string reason = ReasonOf(status); !reason.empty()) parts_.observer->OnRefused(reason);
    code_ = static_cast<grpc::StatusCode>(status.code());
    Finish(ToGrpcStatus(status));
  }

  const JobCallParts parts_;
  grpc::CallbackServerContext* const context_;
  v1::Job* const response_;
  ObservedCall call_;
  v1::CreateJobRequest request_;  // Belongs to the read under way.
  std::string tenant_;
  Fingerprint fingerprint_;
  std::optional<JobDesk::Draft> draft_;
  grpc::StatusCode code_ = grpc::StatusCode::OK;
};

}  // namespace

grpc::ServerReadReactor<v1::CreateJobRequest>* StartCreateJob(const JobCallParts& parts,
                                                              grpc::CallbackServerContext* context, v1::Job* response) {
  auto* reactor = new CreateJobReactor(parts, context, response);  // Deletes itself in OnDone().
  reactor->Start();
  return reactor;
}

}  // namespace turbofleet
