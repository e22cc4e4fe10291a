#include "coordinator/store/postgres_connection.h"

#include <libpq-fe.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status.h"

namespace turbofleet {
namespace {

// Types of the server.
constexpr unsigned kBytea = 17, kInt8 = 20, kText = 25, kByteaArray = 1001, kTextArray = 1009, kInt8Array = 1016;

std::string BigEndian(uint64_t number, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text.push_back(static_cast<char>((number >> (8 * i)) & 0xff));
  return text;
}

// One dimension, counted from 1.
std::string EncodeArray(unsigned type, const std::vector<std::optional<std::string>>& elements) {
  std::string bytes = BigEndian(elements.empty() ? 0 : 1, 4) + BigEndian(1, 4) + BigEndian(type, 4);
  if (!elements.empty()) bytes += BigEndian(elements.size(), 4) + BigEndian(1, 4);
  for (const std::optional<std::string>& element : elements) {
    bytes += element.has_value() ? BigEndian(element->size(), 4) + *element : BigEndian(0xffffffff, 4);
  }
  return bytes;
}

absl::StatusCode CodeOf(std::string_view state) {
  const std::string_view family = state.substr(0, 2);
  if (state == "TF001") return absl::StatusCode::kAborted;
  if (state == "53100") return absl::StatusCode::kResourceExhausted;
  if (state == "XX001" || state == "XX002") return absl::StatusCode::kDataLoss;
  // No connection, no resources, a deadlock or conflict, a lock that does not come, an operator's or a timeout's end.
  const bool passes = family == "08" || family == "53" || family == "40" || family == "55" || family == "57" ||
                      family == "58" || state == "25P02" || state == "25P03" || state == "25006";
  return passes ? absl::StatusCode::kUnavailable : absl::StatusCode::kInternal;
}

absl::Status ErrorOf(const PGresult* result) {
  const char* state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
  const char* message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
  return absl::Status(CodeOf(state == nullptr ? "08006" : state),
                      absl::StrCat("PostgreSQL: ", message == nullptr ? "the connection broke" : message));
}

bool IsError(const PGresult* result) {
  const ExecStatusType status = PQresultStatus(result);
  return status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && status != PGRES_PIPELINE_SYNC;
}

}  // namespace

void PostgresRows::Free(pg_result* result) { PQclear(result); }

int PostgresRows::count() const { return PQntuples(result_.get()); }

int64_t PostgresRows::Number(int row, int column) const {
  const std::string bytes = Text(row, column);
  uint64_t number = 0;
  for (const char byte : bytes) number = (number << 8) | static_cast<unsigned char>(byte);
  // The sign of shorter ones.
  if (!bytes.empty() && bytes.size() < 8 && (static_cast<unsigned char>(bytes[0]) & 0x80U) != 0) {
    number |= ~uint64_t{0} << (8 * bytes.size());
  }
  return static_cast<int64_t>(number);
}

std::string PostgresRows::Text(int row, int column) const {
  return std::string(PQgetvalue(result_.get(), row, column),
                     static_cast<size_t>(PQgetlength(result_.get(), row, column)));
}

bool PostgresRows::IsNull(int row, int column) const { return PQgetisnull(result_.get(), row, column) != 0; }

PostgresValues& PostgresValues::Add(unsigned type, std::optional<std::string> value) {
  types_.push_back(type);
  values_.push_back(std::move(value));
  return *this;
}

PostgresValues& PostgresValues::Number(int64_t number) {
  return Add(kInt8, BigEndian(static_cast<uint64_t>(number), 8));
}

PostgresValues& PostgresValues::OptionalNumber(std::optional<int64_t> number) {
  return number.has_value() ? Number(*number) : Add(kInt8, std::nullopt);
}

PostgresValues& PostgresValues::Text(const std::string& text) { return Add(kText, text); }

PostgresValues& PostgresValues::Bytes(const std::string& bytes) { return Add(kBytea, bytes); }

PostgresValues& PostgresValues::Numbers(const std::vector<int64_t>& numbers) {
  return OptionalNumbers({numbers.begin(), numbers.end()});
}

PostgresValues& PostgresValues::OptionalNumbers(const std::vector<std::optional<int64_t>>& numbers) {
  std::vector<std::optional<std::string>> elements;
  for (const std::optional<int64_t> number : numbers) {
    elements.push_back(number.has_value() ? std::optional(BigEndian(static_cast<uint64_t>(*number), 8)) : std::nullopt);
  }
  return Add(kInt8Array, EncodeArray(kInt8, elements));
}

PostgresValues& PostgresValues::Texts(const std::vector<std::string>& texts) {
  return Add(kTextArray, EncodeArray(kText, {texts.begin(), texts.end()}));
}

PostgresValues& PostgresValues::ByteStrings(const std::vector<std::string>& strings) {
  return Add(kByteaArray, EncodeArray(kBytea, {strings.begin(), strings.end()}));
}

absl::StatusOr<std::unique_ptr<PostgresConnection>> PostgresConnection::Open(const std::string& conninfo,
                                                                             const std::string& setup,
                                                                             absl::Duration timeout) {
  PGconn* raw = PQconnectStart(conninfo.c_str());
  if (raw == nullptr) return absl::UnavailableError("PostgreSQL: out of memory");
  auto connection = std::unique_ptr<PostgresConnection>(new PostgresConnection(raw, timeout));
  const absl::Time deadline = absl::Now() + timeout;
  PostgresPollingStatusType polling = PGRES_POLLING_WRITING;
  while (PQstatus(raw) != CONNECTION_BAD && polling != PGRES_POLLING_OK && polling != PGRES_POLLING_FAILED) {
    TURBOFLEET_RETURN_IF_ERROR(connection->WaitForSocket(polling == PGRES_POLLING_WRITING, deadline));
    polling = PQconnectPoll(raw);
  }
  if (PQstatus(raw) != CONNECTION_OK) return connection->Broken(PQerrorMessage(raw));
  PQsetNoticeProcessor(raw, [](void*, const char*) {}, nullptr);
  TURBOFLEET_RETURN_IF_ERROR(connection->Execute(setup));
  return connection;
}

PostgresConnection::~PostgresConnection() { PQfinish(connection_); }

absl::Status PostgresConnection::Broken(const std::string& what) {
  broken_ = true;
  return absl::UnavailableError(absl::StrCat("PostgreSQL: ", what));
}

absl::Status PostgresConnection::WaitForSocket(bool write, absl::Time deadline) {
  pollfd wanted = {
      .fd = PQsocket(connection_), .events = static_cast<short>(POLLIN | (write ? POLLOUT : 0)), .revents = 0};
  while (true) {
    const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
    const int ready = poll(&wanted, 1, static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000)));
    if (ready > 0) return absl::OkStatus();
    if (ready == 0) return Broken(absl::StrCat("no answer within ", absl::FormatDuration(timeout_)));
    if (errno != EINTR) return Broken("cannot wait for the server");
  }
}

void PostgresConnection::Queue(const char* sql, const PostgresValues& values) {
  queue_.push_back({.sql = sql, .values = values});
}

absl::StatusOr<int> PostgresConnection::SendOne(const Statement& statement) {
  const PostgresValues& values = statement.values;
  const auto count = static_cast<int>(values.types_.size());
  int answers = 1;
  std::string& name = prepared_[statement.sql];
  if (name.empty()) {
    name = absl::StrCat("s", ++names_);
    unsure_.push_back(statement.sql);
    if (PQsendPrepare(connection_, name.c_str(), statement.sql, count, values.types_.data()) != 1) {
      return Broken(PQerrorMessage(connection_));
    }
    ++answers;
  }
  std::vector<const char*> bytes;
  std::vector<int> lengths;
  for (const std::optional<std::string>& value : values.values_) {
    bytes.push_back(value.has_value() ? value->data() : nullptr);
    lengths.push_back(value.has_value() ? static_cast<int>(value->size()) : 0);
  }
  const std::vector<int> formats(values.types_.size(), 1);
  if (PQsendQueryPrepared(connection_, name.c_str(), count, bytes.data(), lengths.data(), formats.data(), 1) != 1) {
    return Broken(PQerrorMessage(connection_));
  }
  return answers;
}

absl::StatusOr<int> PostgresConnection::Send() {
  int answers = 0;
  for (const Statement& statement : std::exchange(queue_, {})) {
    TURBOFLEET_ASSIGN_OR_RETURN(const int more, SendOne(statement));
    answers += more;
  }
  if (PQpipelineSync(connection_) != 1) return Broken(PQerrorMessage(connection_));
  return answers;
}

absl::StatusOr<pg_result*> PostgresConnection::Receive(absl::Time deadline) {
  while (true) {
    const int unsent = PQflush(connection_);
    if (unsent < 0 || PQconsumeInput(connection_) != 1) return Broken(PQerrorMessage(connection_));
    if (PQisBusy(connection_) == 0) return PQgetResult(connection_);
    TURBOFLEET_RETURN_IF_ERROR(WaitForSocket(unsent > 0, deadline));
  }
}

absl::StatusOr<PostgresRows> PostgresConnection::Run(const char* sql, const PostgresValues& values) {
  Queue(sql, values);
  if (broken_) return absl::UnavailableError("PostgreSQL: the connection is lost");
  const absl::Time deadline = absl::Now() + timeout_;
  TURBOFLEET_ASSIGN_OR_RETURN(const int answers, Send());
  absl::Status status;
  PostgresRows last(nullptr);
  for (int i = 0; i < answers; ++i) {
    TURBOFLEET_ASSIGN_OR_RETURN(pg_result * result, Receive(deadline));
    if (result == nullptr) return Broken(PQerrorMessage(connection_));
    last = PostgresRows(result);
    // Those after the first error were not run.
    if (IsError(result) && status.ok()) status = ErrorOf(result);
    if (PQstatus(connection_) != CONNECTION_OK) {
      broken_ = true;
      return status.ok() ? Broken("the connection is lost") : status;
    }
    TURBOFLEET_ASSIGN_OR_RETURN(pg_result * end, Receive(deadline));
    if (end != nullptr) {
      PQclear(end);
      return Broken("more answers than statements");
    }
  }
  TURBOFLEET_ASSIGN_OR_RETURN(pg_result * sync, Receive(deadline));
  const bool in_step = sync != nullptr && PQresultStatus(sync) == PGRES_PIPELINE_SYNC;
  PQclear(sync);
  if (!in_step) return Broken(PQerrorMessage(connection_));
  // After an error nobody knows which of the new ones the server has.
  for (const std::string& statement : std::exchange(unsure_, {})) {
    if (!status.ok()) prepared_.erase(statement);
  }
  if (!status.ok()) return status;
  return last;
}

absl::Status PostgresConnection::Execute(const std::string& sql) {
  // Several statements at once cannot travel with others.
  PQexitPipelineMode(connection_);
  PQsetnonblocking(connection_, 0);
  PGresult* result = PQexec(connection_, sql.c_str());
  absl::Status status = IsError(result) ? ErrorOf(result) : absl::OkStatus();
  PQclear(result);
  if (PQstatus(connection_) != CONNECTION_OK) broken_ = true;
  if (PQsetnonblocking(connection_, 1) != 0 || PQenterPipelineMode(connection_) != 1) {
    status.Update(Broken(PQerrorMessage(connection_)));
  }
  return status;
}

}  // namespace turbofleet
