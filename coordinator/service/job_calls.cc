#include "coordinator/service/job_calls.h"

#include <functional>
#include <string>
#include <utility>

#include "common/errors.h"
#include "common/status.h"
#include "coordinator/service/translate.h"
#include "coordinator/service/validate.h"
#include "coordinator/service/validate_jobs.h"

namespace turbofleet {
namespace {

constexpr char kService[] = "turbofleet.v1.ImageService";
constexpr RpcObserver::Method kGetJob = {.type = "unary", .service = kService, .method = "GetJob"};
constexpr RpcObserver::Method kListJobs = {.type = "unary", .service = kService, .method = "ListJobs"};
constexpr RpcObserver::Method kReleaseImages = {.type = "unary", .service = kService, .method = "ReleaseImages"};
constexpr RpcObserver::Method kCancelJob = {.type = "unary", .service = kService, .method = "CancelJob"};
constexpr RpcObserver::Method kDeleteJob = {.type = "unary", .service = kService, .method = "DeleteJob"};

// A unary call that is answered later, from whichever thread has the answer.
class Answer {
 public:
  Answer(const JobCallParts& parts, const RpcObserver::Method& method, grpc::CallbackServerContext* context)
      : observer_(parts.observer), call_(parts.observer, method), reactor_(context->DefaultReactor()) {}

  grpc::ServerUnaryReactor* reactor() const { return reactor_; }

  void Finish(const absl::Status& status) {
    if (const std::string reason = ReasonOf(status); !reason.empty()) observer_->OnRefused(reason);
    call_.Handled(static_cast<grpc::StatusCode>(status.code()));
    reactor_->Finish(ToGrpcStatus(status));
  }

 private:
  RpcObserver* observer_;
  ObservedCall call_;
  grpc::ServerUnaryReactor* reactor_;
};

// Whose call about which job it is.
struct Subject {
  std::string tenant;
  std::string job;
};

absl::StatusOr<Subject> SubjectOf(const JobCallParts& parts, const grpc::CallbackServerContext& context,
                                  const std::string& name, const google::protobuf::Message& request) {
  Subject subject;
  TURBOFLEET_ASSIGN_OR_RETURN(subject.tenant, parts.tenants->Of(context));
  TURBOFLEET_RETURN_IF_ERROR(CheckUnknownFields(request));
  TURBOFLEET_ASSIGN_OR_RETURN(subject.job, ParseJobName(name));
  return subject;
}

// Answers with a job.
JobDesk::JobCallback AnswerJob(Answer answer, v1::Job* response) {
  return [answer, response](const absl::StatusOr<JobView>& job) mutable {
    if (job.ok()) *response = JobProto(*job);
    answer.Finish(job.status());
  };
}

absl::StatusOr<JobQuery> QueryOf(const JobCallParts& parts, const grpc::CallbackServerContext& context,
                                 const v1::ListJobsRequest& request) {
  TURBOFLEET_ASSIGN_OR_RETURN(std::string tenant, parts.tenants->Of(context));
  TURBOFLEET_ASSIGN_OR_RETURN(JobQuery query, ParseListJobsRequest(request));
  query.tenant = std::move(tenant);
  return query;
}

}  // namespace

grpc::ServerUnaryReactor* StartGetJob(const JobCallParts& parts, grpc::CallbackServerContext* context,
                                      const v1::GetJobRequest* request, v1::Job* response) {
  Answer answer(parts, kGetJob, context);
  const absl::StatusOr<Subject> subject = SubjectOf(parts, *context, request->name(), *request);
  if (!subject.ok()) {
    answer.Finish(subject.status());
  } else {
    parts.desk->Get(subject->tenant, subject->job, AnswerJob(answer, response));
  }
  return answer.reactor();
}

grpc::ServerUnaryReactor* StartListJobs(const JobCallParts& parts, grpc::CallbackServerContext* context,
                                        const v1::ListJobsRequest* request, v1::ListJobsResponse* response) {
  Answer answer(parts, kListJobs, context);
  const absl::StatusOr<JobQuery> query = QueryOf(parts, *context, *request);
  const absl::StatusOr<int32_t> page_size = ParsePageSize(request->page_size());
  if (!query.ok() || !page_size.ok()) {
    answer.Finish(query.ok() ? page_size.status() : query.status());
    return answer.reactor();
  }
  // One more than fits shows whether there is another page.
  parts.desk->List(*query, *page_size + 1,
                   [answer, response, size = *page_size](absl::StatusOr<std::vector<JobView>> jobs) mutable {
                     if (jobs.ok()) {
                       const bool more = static_cast<int32_t>(jobs->size()) > size;
                       if (more) jobs->pop_back();
                       for (const JobView& job : *jobs) *response->add_jobs() = JobProto(job);
                       if (more) response->set_next_page_token(PageTokenAfter(jobs->back().record));
                     }
                     answer.Finish(jobs.status());
                   });
  return answer.reactor();
}

grpc::ServerUnaryReactor* StartReleaseImages(const JobCallParts& parts, grpc::CallbackServerContext* context,
                                             const v1::ReleaseImagesRequest* request, v1::Job* response) {
  Answer answer(parts, kReleaseImages, context);
  const absl::StatusOr<Subject> subject = SubjectOf(parts, *context, request->name(), *request);
  const absl::StatusOr<WatchPosition> position =
      subject.ok() ? ParseResumeToken(subject->job, request->resume_token(), /*ordered=*/false) : subject.status();
  if (!position.ok()) {
    answer.Finish(position.status());
  } else {
    parts.desk->Release(subject->tenant, subject->job, *position, AnswerJob(answer, response));
  }
  return answer.reactor();
}

grpc::ServerUnaryReactor* StartCancelJob(const JobCallParts& parts, grpc::CallbackServerContext* context,
                                         const v1::CancelJobRequest* request, v1::Job* response) {
  Answer answer(parts, kCancelJob, context);
  const absl::StatusOr<Subject> subject = SubjectOf(parts, *context, request->name(), *request);
  if (!subject.ok()) {
    answer.Finish(subject.status());
  } else {
    parts.desk->Cancel(subject->tenant, subject->job, AnswerJob(answer, response));
  }
  return answer.reactor();
}

grpc::ServerUnaryReactor* StartDeleteJob(const JobCallParts& parts, grpc::CallbackServerContext* context,
                                         const v1::DeleteJobRequest* request, google::protobuf::Empty* /*response*/) {
  Answer answer(parts, kDeleteJob, context);
  const absl::StatusOr<Subject> subject = SubjectOf(parts, *context, request->name(), *request);
  if (!subject.ok()) {
    answer.Finish(subject.status());
  } else {
    parts.desk->Delete(subject->tenant, subject->job,
                       [answer](const absl::Status& status) mutable { answer.Finish(status); });
  }
  return answer.reactor();
}

}  // namespace turbofleet
