#include "coordinator/store/sqlite_connection.h"

#include <sqlite3.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace turbofleet {
namespace {

constexpr int64_t kLogBytesMax = 16 << 20;
constexpr int64_t kPageBytes = 4096;

// One connection in exclusive mode needs no shared memory, and keeps other programs out.
constexpr char kSettings[] = R"(
    pragma page_size = 4096;
    pragma locking_mode = exclusive;
    pragma journal_mode = wal;
    pragma synchronous = full;
    pragma busy_timeout = 0;
    pragma wal_autocheckpoint = 0;
    pragma foreign_keys = on;
    pragma trusted_schema = off;
    pragma cell_size_check = on;
)";

absl::StatusCode CodeOf(int code, int system_errno) {
  switch (code & 0xff) {
    case SQLITE_FULL:
      return absl::StatusCode::kResourceExhausted;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
      return system_errno == ENOSPC || system_errno == EDQUOT ? absl::StatusCode::kResourceExhausted
                                                              : absl::StatusCode::kUnavailable;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_NOMEM:
    case SQLITE_READONLY:
      return absl::StatusCode::kUnavailable;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::StatusCode::kDataLoss;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteConnection>> SqliteConnection::Open(const std::string& path) {
  sqlite3* database = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &database,
                                   SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  auto connection = std::unique_ptr<SqliteConnection>(new SqliteConnection(database));
  if (code != SQLITE_OK) return connection->ErrorOf(code, absl::StrCat("cannot open ", path));
  sqlite3_extended_result_codes(database, 1);
  TURBOFLEET_RETURN_IF_ERROR(Annotate(connection->Execute(kSettings), path));
  sqlite3_wal_hook(
      database,
      [](void* self, sqlite3*, const char*, int pages) {
        static_cast<SqliteConnection*>(self)->log_pages_ = pages;
        return SQLITE_OK;
      },
      connection.get());
  return connection;
}

SqliteConnection::~SqliteConnection() {
  for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(database_);
}

absl::Status SqliteConnection::ErrorOf(int code, absl::string_view context) const {
  const char* detail = database_ == nullptr ? "out of memory" : sqlite3_errmsg(database_);
  const int system_errno = database_ == nullptr ? 0 : sqlite3_system_errno(database_);
  return absl::Status(CodeOf(code, system_errno), absl::StrCat(context, ": ", detail, " (", sqlite3_errstr(code), ")"));
}

absl::Status SqliteConnection::Execute(const std::string& sql) {
  const int code = sqlite3_exec(database_, sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : ErrorOf(code, "SQLite");
}

absl::StatusOr<int64_t> SqliteConnection::ReadNumber(const std::string& sql) {
  int64_t number = 0;
  const int code = sqlite3_exec(
      database_, sql.c_str(),
      [](void* to, int, char** values, char**) {
        *static_cast<int64_t*>(to) = std::strtoll(values[0], nullptr, 10);
        return 0;
      },
      &number, nullptr);
  if (code != SQLITE_OK) return ErrorOf(code, "SQLite");
  return number;
}

bool SqliteConnection::in_transaction() const { return sqlite3_get_autocommit(database_) == 0; }

int64_t SqliteConnection::changes() const { return sqlite3_changes64(database_); }

void SqliteConnection::Checkpoint(bool all) {
  if (log_pages_ == 0 || (!all && log_pages_ * kPageBytes < kLogBytesMax)) return;
  const int mode = all ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE;
  int left = 0;
  int moved = 0;
  if (sqlite3_wal_checkpoint_v2(database_, nullptr, mode, &left, &moved) == SQLITE_OK) log_pages_ = left - moved;
}

sqlite3_stmt* SqliteConnection::Prepare(const char* sql) {
  sqlite3_stmt*& statement = statements_[sql];
  if (statement == nullptr) {
    sqlite3_prepare_v3(database_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  }
  return statement;
}

SqliteQuery::SqliteQuery(SqliteConnection& connection, const char* sql)
    : connection_(connection), sql_(sql), statement_(connection.Prepare(sql)) {
  if (statement_ == nullptr) Check(sqlite3_extended_errcode(connection_.database_));
}

SqliteQuery::~SqliteQuery() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

void SqliteQuery::Check(int code) {
  if (code != SQLITE_OK && status_.ok()) status_ = connection_.ErrorOf(code, absl::StrCat("SQLite: ", sql_));
}

SqliteQuery& SqliteQuery::Bind(int64_t number) {
  if (status_.ok()) Check(sqlite3_bind_int64(statement_, ++bound_, number));
  return *this;
}

SqliteQuery& SqliteQuery::Bind(const std::string& text) {
  if (status_.ok()) {
    Check(sqlite3_bind_text64(statement_, ++bound_, text.data(), text.size(), SQLITE_STATIC, SQLITE_UTF8));
  }
  return *this;
}

SqliteQuery& SqliteQuery::BindBlob(const std::string& bytes) {
  if (status_.ok()) Check(sqlite3_bind_blob64(statement_, ++bound_, bytes.data(), bytes.size(), SQLITE_STATIC));
  return *this;
}

SqliteQuery& SqliteQuery::BindNull() {
  if (status_.ok()) Check(sqlite3_bind_null(statement_, ++bound_));
  return *this;
}

absl::StatusOr<bool> SqliteQuery::Step() {
  if (!status_.ok()) return status_;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  Check(code);
  return status_;
}

absl::Status SqliteQuery::Run() { return Step().status(); }

int64_t SqliteQuery::Number(int column) const { return sqlite3_column_int64(statement_, column); }

std::string SqliteQuery::Text(int column) const {
  const void* bytes = sqlite3_column_blob(statement_, column);
  if (bytes == nullptr) return "";
  return std::string(static_cast<const char*>(bytes), static_cast<size_t>(sqlite3_column_bytes(statement_, column)));
}

bool SqliteQuery::IsNull(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }

}  // namespace turbofleet
