// The calls of Connection that are about jobs, but for WatchJob's own machinery.
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/lib/connection.h"
#include "client/lib/convert_job.h"
#include "client/lib/prompt_chunks.h"
#include "client/lib/retrier.h"
#include "client/lib/watch_call.h"
#include "common/errors.h"
#include "common/status.h"

namespace turbofleet::client {
namespace {

constexpr size_t kJobsMax = 1'000'000;
constexpr int32_t kJobsPerPage = 1000;

absl::Status ValidateName(const std::string& name) {
  if (absl::StartsWith(name, "jobs/") && name.size() > 5) return absl::OkStatus();
  return InvalidField("name", absl::StrCat("must be jobs/JOB, not '", name, "'"));
}

// What came back of a call for `name`.
absl::StatusOr<Job> CheckedJob(absl::StatusOr<v1::Job> response, const std::string& name) {
  if (!response.ok()) return response.status();
  if (response->name() != name) {
    return ProtocolViolation(absl::StrCat("answered a call for ", name, " with ", response->name()));
  }
  return FromProto(*response);
}

}  // namespace

absl::StatusOr<Job> Connection::CreateJob(const JobRequest& request, const JobOptions& options) {
  TURBOFLEET_RETURN_IF_ERROR(Validate(request));
  v1::JobSpec spec = ToProto(request);
  if (spec.request_id().empty()) spec.set_request_id(dependencies_.draw_id());
  TURBOFLEET_ASSIGN_OR_RETURN(
      const v1::Job job, Retrier(dependencies_, policy_, options).Call([&](const CallOptions& call) {
        PromptChunks chunks(spec, request.images.prompts);
        return dependencies_.jobs->CreateJob(call, [&chunks](v1::CreateJobRequest* part) { return chunks.Next(part); });
      }));
  if (static_cast<size_t>(job.prompt_count()) != request.images.prompts.size()) {
    return ProtocolViolation(absl::StrCat("made a job of ", job.prompt_count(), " prompts when asked for one of ",
                                          request.images.prompts.size()));
  }
  return FromProto(job);
}

absl::StatusOr<Job> Connection::GetJob(const std::string& name, const JobOptions& options) {
  TURBOFLEET_RETURN_IF_ERROR(ValidateName(name));
  v1::GetJobRequest request;
  request.set_name(name);
  return CheckedJob(Retrier(dependencies_, policy_, options).Call([&](const CallOptions& call) {
    return dependencies_.jobs->GetJob(request, call);
  }),
                    name);
}

absl::StatusOr<JobPage> Connection::ListJobsPage(const JobFilter& filter, int32_t page_size,
                                                 const std::string& page_token, const JobOptions& options) {
  TURBOFLEET_ASSIGN_OR_RETURN(v1::ListJobsRequest request, ToProto(filter));
  if (page_size < 0) return InvalidField("page_size", "is negative");
  request.set_page_size(page_size);
  request.set_page_token(page_token);
  TURBOFLEET_ASSIGN_OR_RETURN(const v1::ListJobsResponse response,
                              Retrier(dependencies_, policy_, options).Call([&](const CallOptions& call) {
                                return dependencies_.jobs->ListJobs(request, call);
                              }));
  if (!response.next_page_token().empty() && response.next_page_token() == page_token) {
    return ProtocolViolation("sent a page of jobs that leads to itself");
  }
  JobPage page = {.jobs = {}, .next_page_token = response.next_page_token()};
  for (const v1::Job& proto : response.jobs()) {
    TURBOFLEET_ASSIGN_OR_RETURN(Job job, FromProto(proto));
    page.jobs.push_back(std::move(job));
  }
  return page;
}

absl::StatusOr<std::vector<Job>> Connection::ListJobs(const JobFilter& filter, const JobOptions& options) {
  const absl::Time deadline = dependencies_.clock->Now() + options.timeout.value_or(absl::InfiniteDuration());
  JobOptions page_options = options;
  std::vector<Job> jobs;
  std::string token;
  int empty_pages = 0;
  do {
    if (options.timeout.has_value()) page_options.timeout = deadline - dependencies_.clock->Now();
    TURBOFLEET_ASSIGN_OR_RETURN(JobPage page, ListJobsPage(filter, kJobsPerPage, token, page_options));
    empty_pages = page.jobs.empty() ? empty_pages + 1 : 0;
    if (empty_pages > kJobsPerPage) return ProtocolViolation("sends empty pages of jobs without end");
    if (jobs.size() + page.jobs.size() > kJobsMax) {
      return absl::ResourceExhaustedError(absl::StrCat("there are more than ", kJobsMax, " jobs; ask for less"));
    }
    std::move(page.jobs.begin(), page.jobs.end(), std::back_inserter(jobs));
    token = page.next_page_token;
  } while (!token.empty());
  return jobs;
}

absl::Status Connection::WatchJob(const WatchRequest& request, const WatchOptions& options,
                                  const std::function<void(WatchEvent event)>& on_event) {
  TURBOFLEET_RETURN_IF_ERROR(ValidateName(request.name));
  if (options.release_delivered && options.release_bytes < 1) return InvalidField("release_bytes", "must be above 0");
  return WatchCall(dependencies_, policy_, request, options, on_event).Run();
}

absl::StatusOr<Job> Connection::ReleaseImages(const std::string& name, const std::string& resume_token,
                                              const JobOptions& options) {
  TURBOFLEET_RETURN_IF_ERROR(ValidateName(name));
  v1::ReleaseImagesRequest request;
  request.set_name(name);
  request.set_resume_token(resume_token);
  return CheckedJob(Retrier(dependencies_, policy_, options).Call([&](const CallOptions& call) {
    return dependencies_.jobs->ReleaseImages(request, call);
  }),
                    name);
}

absl::StatusOr<Job> Connection::CancelJob(const std::string& name, const JobOptions& options) {
  TURBOFLEET_RETURN_IF_ERROR(ValidateName(name));
  v1::CancelJobRequest request;
  request.set_name(name);
  return CheckedJob(Retrier(dependencies_, policy_, options).Call([&](const CallOptions& call) {
    return dependencies_.jobs->CancelJob(request, call);
  }),
                    name);
}

absl::Status Connection::DeleteJob(const std::string& name, const JobOptions& options) {
  TURBOFLEET_RETURN_IF_ERROR(ValidateName(name));
  v1::DeleteJobRequest request;
  request.set_name(name);
  bool answer_lost = false;
  return Retrier(dependencies_, policy_, options)
      .Call([&](const CallOptions& call) -> absl::StatusOr<bool> {
        const absl::Status status = dependencies_.jobs->DeleteJob(request, call);
        // The first of two tries may have done it.
        if (answer_lost && absl::IsNotFound(status)) return true;
        answer_lost = answer_lost || IsBrokenStream(status);
        if (!status.ok()) return status;
        return true;
      })
      .status();
}

}  // namespace turbofleet::client
