// SQLite as this project uses it: statuses instead of codes, prepared statements that are kept.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct sqlite3;
struct sqlite3_stmt;

namespace turbofleet {

// One database file, held by this process alone until it is closed, with its write-ahead log synchronised at each
// commit. It makes its checkpoints itself: SQLite before 3.51.3 can lose data when another connection does.
// Thread-compatible.
//
// Errors: RESOURCE_EXHAUSTED: the disk is full. UNAVAILABLE: it does not answer, or another process has the file.
// DATA_LOSS: the file is broken. INTERNAL: anything else.
class SqliteConnection {
 public:
  // Opens the file, or makes it. Does not read it yet.
  static absl::StatusOr<std::unique_ptr<SqliteConnection>> Open(const std::string& path);
  ~SqliteConnection();
  SqliteConnection(const SqliteConnection&) = delete;
  SqliteConnection& operator=(const SqliteConnection&) = delete;

  // Runs statements that are separated by semicolons and return no rows, or rows that do not matter.
  absl::Status Execute(const std::string& sql);
  // The first column of the first row. REQUIRES: there is one, and it is a number.
  absl::StatusOr<int64_t> ReadNumber(const std::string& sql);

  bool in_transaction() const;
  // Rows that the last statement changed.
  int64_t changes() const;

  // Moves the log into the file if it has grown to 16 MiB, or however small it is with `all`, which also empties it. An
  // error is no harm: the log grows until the next time.
  void Checkpoint(bool all);

 private:
  friend class SqliteQuery;
  explicit SqliteConnection(sqlite3* database) : database_(database) {}
  // Null: broken_ says why.
  sqlite3_stmt* Prepare(const char* sql);
  absl::Status ErrorOf(int code, absl::string_view context) const;

  sqlite3* const database_;
  std::map<absl::string_view, sqlite3_stmt*> statements_;  // By SQL, which is a literal.
  int64_t log_pages_ = 0;                                  // Not yet in the file.
};

// One run of a statement, which is prepared once per connection. Values are bound in the order of the `?`. Errors in
// preparing and binding come out of Step() and Run().
class SqliteQuery {
 public:
  // REQUIRES: `sql` is a literal, and is not running.
  SqliteQuery(SqliteConnection& connection, const char* sql);
  ~SqliteQuery();
  SqliteQuery(const SqliteQuery&) = delete;
  SqliteQuery& operator=(const SqliteQuery&) = delete;

  SqliteQuery& Bind(int64_t number);
  // The text has to outlive the query.
  SqliteQuery& Bind(const std::string& text);
  SqliteQuery& Bind(std::string&& text) = delete;
  SqliteQuery& BindBlob(const std::string& bytes);
  SqliteQuery& BindNull();

  // Whether there is a next row.
  absl::StatusOr<bool> Step();
  // For statements without rows.
  absl::Status Run();

  // Columns of the row, from 0.
  int64_t Number(int column) const;
  std::string Text(int column) const;  // Or a blob.
  bool IsNull(int column) const;

 private:
  void Check(int code);

  SqliteConnection& connection_;
  const char* const sql_;
  sqlite3_stmt* const statement_;
  int bound_ = 0;
  absl::Status status_;
};

}  // namespace turbofleet
