#ifndef MILLRACE_CSQLITE_SHIM_H
#define MILLRACE_CSQLITE_SHIM_H

#include <sqlite3.h>

/* Swift sees no casts in macros, so SQLITE_TRANSIENT is out of its reach; and a null pointer would
   bind NULL where an empty blob is meant. */
static inline int csqlite_bind_copy(sqlite3_stmt *statement, int index, const void *bytes,
                                    sqlite3_uint64 count) {
  if (count == 0) return sqlite3_bind_zeroblob(statement, index, 0);
  return sqlite3_bind_blob64(statement, index, bytes, count, SQLITE_TRANSIENT);
}

/* Swift calls no function of a variable number of arguments. Refused once a connection was made. */
static inline int csqlite_count_no_memory(void) {
  return sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

/* As <fcntl.h> has it, which shows it to GNU programs only. */
extern int sync_file_range(int, long, long, unsigned int);

/* Has the disk begin with what was written there; does not wait (SYNC_FILE_RANGE_WRITE). */
static inline int csqlite_begin_writing(int file, sqlite3_int64 offset, sqlite3_int64 count) {
  return sync_file_range(file, (long)offset, (long)count, 2);
}

#endif
