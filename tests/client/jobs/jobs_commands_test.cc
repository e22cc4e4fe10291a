// `turbofleet job ...` as people type it, against a coordinator in this process.
#include "client/cli/command.h"
#include "client/cli/help_formatter.h"
#include "common/errors.h"
#include "common/flags.h"
#include "gmock/gmock.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "tests/client/jobs/fake_jobs_service.h"
#include "tests/client/jobs/job_place.h"
#include "tests/support/status_matchers.h"

namespace turbofleet::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

class JobsCommandsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    globals_.coordinator = "unix:" + (place_ / "socket");
    globals_.quiet = false;
    grpc::ServerBuilder builder;
    builder.AddListeningPort(globals_.coordinator, grpc::InsecureServerCredentials());
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    previous_ = std::filesystem::current_path();
    // The default of --out is relative.
    std::filesystem::current_path(place_ / "");
  }
  void TearDown() override {
    std::filesystem::current_path(previous_);
    service_.test_ends.Notify();
    server_->Shutdown();
  }

  // Returns the exit code; what was printed is in out_ and err_.
  int Run(std::vector<std::string> arguments) {
    CLI::App app("turbofleet");
    app.formatter(std::make_shared<HelpFormatter>());
    app.fallthrough();
    app.add_option("-c,--coordinator", globals_.coordinator)->group("Connection");
    Commands commands;
    AddJobCommand(&app, &globals_, &commands);
    AddCompletionCommand(&app, &commands);
    std::reverse(arguments.begin(), arguments.end());
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    int code = kExitUsage;
    try {
      app.parse(arguments);
      const CLI::App* command = &app;
      while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
      code = commands.at(command)(stop_.get_token());
    } catch (const CLI::CallForHelp&) {
      std::printf("%s", app.help().c_str());
      code = kExitOk;
    } catch (const CLI::ParseError& error) {
      std::fprintf(stderr, "%s", error.what());
    }
    out_ = ::testing::internal::GetCapturedStdout();
    err_ = ::testing::internal::GetCapturedStderr();
    return code;
  }

  std::vector<nlohmann::json> Printed() const {
    std::vector<nlohmann::json> lines;
    std::istringstream text(out_);
    for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  JobPlace place_;
  Globals globals_;
  client::FakeJobsService service_;
  std::unique_ptr<grpc::Server> server_;
  std::filesystem::path previous_;
  std::stop_source stop_;
  std::string out_;
  std::string err_;
};

TEST_F(JobsCommandsTest, CreateSendsEveryFlagAndPrintsTheName) {
  EXPECT_EQ(Run({"job",         "create", "a fox",         "an owl",    "-n",         "3",     "-s",         "100",
                 "--size",      "64x80",  "--steps",       "4",         "--vae",      "tiny",  "--format",   "jpeg",
                 "--quality",   "70",     "--label",       "set=night", "-l",         "team=", "--timeout",  "90m",
                 "--retention", "2h",     "--request-id",  "mine",      "--priority", "bulk",  "--guidance", "2.5",
                 "--negative",  "blur",   "--no-metadata", "--model",   "m"}),
            kExitOk)
      << err_;
  EXPECT_EQ(out_, "jobs/1\n");
  const v1::JobSpec& spec = service_.spec;
  EXPECT_EQ(spec.images().count(), 3);
  EXPECT_EQ(spec.images().seed(), 100u);
  EXPECT_EQ(spec.images().width(), 64);
  EXPECT_EQ(spec.images().height(), 80);
  EXPECT_EQ(spec.images().steps(), 4);
  EXPECT_EQ(spec.images().vae(), v1::VAE_TINY);
  EXPECT_EQ(spec.images().format(), v1::IMAGE_FORMAT_JPEG);
  EXPECT_EQ(spec.images().quality(), 70);
  EXPECT_EQ(spec.images().priority(), v1::PRIORITY_BULK);
  EXPECT_EQ(spec.images().guidance_scale(), 2.5);
  EXPECT_EQ(spec.images().negative_prompt(), "blur");
  EXPECT_FALSE(spec.images().embed_metadata());
  EXPECT_EQ(spec.images().model(), "m");
  EXPECT_THAT(spec.labels(), UnorderedElementsAre(Pair("set", "night"), Pair("team", "")));
  EXPECT_EQ(spec.timeout().seconds(), 5400);
  EXPECT_EQ(spec.retention().seconds(), 7200);
  EXPECT_EQ(spec.request_id(), "mine");
  EXPECT_EQ(service_.prompts, 2);
  // What only the creator knows waits for the watch.
  const nlohmann::json record = place_.Json("out/1/job.json");
  EXPECT_EQ(record["job"], "jobs/1");
  EXPECT_THAT(record["prompts"], ElementsAre("a fox", "an owl"));
  EXPECT_EQ(record["vae"], "tiny");
  EXPECT_EQ(record["quality"], 70);
}

TEST_F(JobsCommandsTest, CreateReadsPromptsFromAFile) {
  place_.Write("prompts.txt",
               "\xef\xbb\xbf"
               "a fox\r\n\n  \nan owl");
  EXPECT_EQ(Run({"job", "create", "--prompts", "prompts.txt", "--seeds", "5,7-8", "--json"}), kExitOk) << err_;
  EXPECT_EQ(service_.prompts, 2);
  EXPECT_THAT(service_.spec.images().seeds(), ElementsAre(5, 7, 8));
  EXPECT_EQ(Printed().at(0)["name"], "jobs/1");
  EXPECT_THAT(place_.Json("out/1/job.json")["prompts"], ElementsAre("a fox", "an owl"));
}

TEST_F(JobsCommandsTest, CreateTakesAStartPicture) {
  place_.Write("start.png", "\x89PNG\r\n\x1a\n and so on");
  EXPECT_EQ(Run({"job", "create", "a", "b", "-i", "start.png", "--strength", "0.7"}), kExitOk) << err_;
  EXPECT_EQ(service_.spec.images().init_image().size(), 18u);
  EXPECT_EQ(service_.spec.images().strength(), 0.7);
  EXPECT_EQ(place_.Json("out/1/job.json")["init_image"], "../../start.png");
  EXPECT_EQ(place_.Json("out/1/job.json")["init_image_sha256"].get<std::string>().size(), 64u);
}

TEST_F(JobsCommandsTest, WrongUsageEndsWith2AndSendsNothing) {
  place_.Write("empty.txt", "\n\n");
  place_.Write("prompts.txt", "a\n");
  const std::vector<std::vector<std::string>> cases = {{"job"},
                                                       {"job", "nonsense"},
                                                       {"job", "create"},
                                                       {"job", "create", "a", "--prompts", "prompts.txt"},
                                                       {"job", "create", "--prompts", "nowhere.txt"},
                                                       {"job", "create", "--prompts", "empty.txt"},
                                                       {"job", "create", "a", "--steps", "9"},
                                                       {"job", "create", "a", "--label", "novalue"},
                                                       {"job", "create", "a", "--label", "=x"},
                                                       {"job", "create", "a", "-l", "x=1", "-l", "x=2"},
                                                       {"job", "create", "a", "--timeout", "soon"},
                                                       {"job", "create", "a", "--timeout", "1ms"},
                                                       {"job", "create", "a", "--retention", "0"},
                                                       {"job", "create", "a", "--priority", "urgent"},
                                                       {"job", "create", "a", "--request-id", "a b"},
                                                       {"job", "create", "a", "-n", "100000001"},
                                                       {"job", "create", "a", "--ordered"},
                                                       {"job", "create", "a", "--release"},
                                                       {"job", "create", "a", "--sheet"},
                                                       {"job", "create", "a", "--name-template", "{index}"},
                                                       {"job", "list", "--state", "unknown"},
                                                       {"job", "list", "--label", "x"},
                                                       {"job", "list", "--limit", "0"},
                                                       {"job", "show"},
                                                       {"job", "show", "../1"},
                                                       {"job", "watch"},
                                                       {"job", "watch", "jobs/"},
                                                       {"job", "watch", "1", "--name-template", "x"},
                                                       {"job", "cancel", "a/b"},
                                                       {"job", "delete", ".."}};
  for (const std::vector<std::string>& arguments : cases) {
    SCOPED_TRACE(::testing::PrintToString(arguments));
    EXPECT_EQ(Run(arguments), kExitUsage) << err_;
    EXPECT_THAT(err_, Not(IsEmpty()));
    EXPECT_THAT(out_, IsEmpty());
  }
  EXPECT_EQ(service_.prompts, 0);
  EXPECT_FALSE(place_.Has("out"));
}

TEST_F(JobsCommandsTest, AFolderWithAJobGetsNoOther) {
  EXPECT_EQ(Run({"job", "create", "a", "b", "--out", "mine"}), kExitOk) << err_;
  EXPECT_EQ(Run({"job", "create", "a", "b", "--out", "mine"}), kExitFailed);
  EXPECT_THAT(err_, HasSubstr("turbofleet job watch 1"));
  EXPECT_EQ(service_.prompts, 2);
  // The same creation again is the same job.
  EXPECT_EQ(Run({"job", "create", "a", "b", "--out", "mine", "--request-id", "x"}), kExitOk) << err_;
  service_.jobs.job.set_name("jobs/2");
  EXPECT_EQ(Run({"job", "create", "a", "b", "--out", "mine", "--request-id", "x"}), kExitFailed);
  EXPECT_THAT(err_, HasSubstr("has pictures of jobs/1, not of jobs/2"));
}

TEST_F(JobsCommandsTest, CreateAndWatchAreOneCommandToo) {
  EXPECT_EQ(Run({"job", "create", "a", "b", "-n", "3", "--watch", "--json", "--release", "--out", "mine"}),
            kExitSomeFailed)
      << err_;
  EXPECT_THAT(Printed(), SizeIs(5));
  EXPECT_THAT(err_, HasSubstr("jobs/1\n"));
  EXPECT_THAT(err_, HasSubstr("5 pictures in mine"));
  EXPECT_THAT(place_.Indexes("mine/manifest.jsonl"), ElementsAre(0, 1, 2, 3, 5));
  EXPECT_EQ(place_.Lines("mine/manifest.jsonl")[3]["prompt"], "b");
  EXPECT_THAT(service_.released, ElementsAre("t6"));
}

TEST_F(JobsCommandsTest, WatchGoesOnAndSaysHowTheJobIs) {
  EXPECT_EQ(Run({"job", "watch", "1", "--out", "mine"}), kExitSomeFailed) << err_;
  EXPECT_THAT(err_, HasSubstr("5 pictures in mine"));
  EXPECT_THAT(err_, HasSubstr("1 failed: see mine/errors.jsonl"));
  EXPECT_THAT(out_, IsEmpty());
  EXPECT_EQ(Run({"job", "watch", "jobs/1", "--out", "mine"}), kExitSomeFailed) << err_;
  EXPECT_THAT(err_, HasSubstr("0 pictures in mine after 0:00; 5 were there already"));
  EXPECT_EQ(place_.Pictures("mine"), 5u);
  EXPECT_THAT(service_.released, IsEmpty());
}

TEST_F(JobsCommandsTest, WatchOfNoJobLeavesNoFolder) {
  EXPECT_EQ(Run({"job", "watch", "2"}), kExitFailed);
  EXPECT_THAT(err_, HasSubstr("[JOB_NOT_FOUND]"));
  EXPECT_FALSE(place_.Has("out"));
}

TEST_F(JobsCommandsTest, TheEndOfAJobIsAnExitCode) {
  const std::map<v1::Job::State, int> codes = {{v1::Job::STATE_CANCELLED, kExitFailed},
                                               {v1::Job::STATE_EXPIRED, kExitDeadline}};
  service_.jobs.order.clear();
  for (const auto& [state, code] : codes) {
    service_.end_state = state;
    EXPECT_EQ(Run({"job", "watch", "1"}), code) << err_;
    EXPECT_THAT(err_, HasSubstr("0 of 6 pictures were made"));
  }
}

TEST_F(JobsCommandsTest, ListShowsPagesUpToTheLimit) {
  (*service_.jobs.job.mutable_labels())["set"] = "night";
  service_.jobs.job.set_priority(v1::PRIORITY_BULK);
  EXPECT_EQ(Run({"job", "list", "--state", "running", "--label", "set=night"}), kExitOk) << err_;
  EXPECT_THAT(out_, HasSubstr("JOB  STATE    DONE  FAILED  OF  PRIORITY  CREATED"));
  EXPECT_THAT(out_, HasSubstr("\n1    running  0     0       6   bulk "));
  EXPECT_THAT(out_, HasSubstr("set=night\n"));
  EXPECT_EQ(std::count(out_.begin(), out_.end(), '\n'), 3);
  EXPECT_EQ(service_.list_request.state(), v1::Job::STATE_RUNNING);
  EXPECT_THAT(service_.list_request.labels(), UnorderedElementsAre(Pair("set", "night")));
  EXPECT_EQ(Run({"job", "list", "--json", "--limit", "1"}), kExitOk) << err_;
  ASSERT_THAT(Printed(), SizeIs(1));
  EXPECT_EQ(Printed()[0]["labels"]["set"], "night");
  EXPECT_EQ(Printed()[0]["priority"], "bulk");
  EXPECT_EQ(service_.list_request.page_size(), 1);
}

TEST_F(JobsCommandsTest, ShowCancelAndDeleteTakeSeveralNames) {
  EXPECT_EQ(Run({"job", "show", "1"}), kExitOk) << err_;
  EXPECT_THAT(out_, HasSubstr("Images   0 done, 0 failed, of 6 (2 prompts, 3 of each)"));
  EXPECT_EQ(Run({"job", "show", "--json", "jobs/1", "2", "1"}), kExitFailed);
  EXPECT_THAT(Printed(), SizeIs(2));
  EXPECT_THAT(err_, HasSubstr("[JOB_NOT_FOUND]"));
  EXPECT_EQ(Run({"job", "cancel", "1", "--json"}), kExitOk) << err_;
  EXPECT_EQ(Printed().at(0)["state"], "running");
  EXPECT_EQ(Run({"job", "delete", "1", "2"}), kExitFailed);
  EXPECT_THAT(out_, IsEmpty());
  EXPECT_EQ(Run({"job", "delete", "1"}), kExitOk) << err_;
}

TEST_F(JobsCommandsTest, HelpTeachesAndKnowsTheSharedOptions) {
  for (const std::string command : {"create", "watch", "list", "show", "cancel", "delete"}) {
    EXPECT_EQ(Run({"job", command, "--help"}), kExitOk) << err_;
    EXPECT_THAT(out_, HasSubstr("turbofleet job " + command));
    EXPECT_THAT(out_, HasSubstr("--coordinator"));
  }
}

TEST_F(JobsCommandsTest, ShellsCompleteWhatIsBelowJob) {
  EXPECT_EQ(Run({"completion", "bash"}), kExitOk);
  EXPECT_THAT(out_, HasSubstr("/job|job/create|job/watch|job/list|job/show|job/cancel|job/delete|/completion)"));
  EXPECT_THAT(out_, HasSubstr("    job) words='create watch list show cancel delete "));
  EXPECT_THAT(out_, HasSubstr("    job/list) words='"));
  EXPECT_EQ(Run({"completion", "zsh"}), kExitOk);
  EXPECT_THAT(out_, HasSubstr("case $words[3] in"));
  EXPECT_EQ(Run({"completion", "fish"}), kExitOk);
  EXPECT_THAT(out_, HasSubstr("'__fish_seen_subcommand_from job; and __fish_seen_subcommand_from list' -l state"));
}

}  // namespace
}  // namespace turbofleet::cli
