/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The log of all daemons and of the plugin: lines on stderr, or wherever the sink sends them.
 */
#ifndef ROZO_LOG_H
#define ROZO_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

/* Numbers are syslog's, so that they can be journald's line prefix as they are. */
enum rozo_log_level {
	ROZO_LOG_ERROR = 3, /* something failed that someone has to look at */
	ROZO_LOG_WARNING = 4, /* something is wrong, the cluster copes */
	ROZO_LOG_INFO = 6, /* worth knowing in normal operation; the default */
	ROZO_LOG_DEBUG = 7,
};

/* Lines above the level are dropped. May be called at any time, from any thread. */
void rozo_log_set_level(enum rozo_log_level level);

/* "error", "warning", "info" or "debug". Returns false, and changes nothing, for other words. */
bool rozo_log_set_level_by_name(const char *name);

/* Takes each line, without a line break. Called from any thread, may be called concurrently. */
typedef void (*rozo_log_sink)(enum rozo_log_level level, const char *line);

/*
 * Sends lines to a function of the program's instead of stderr; NULL: stderr again. To be called
 * before other threads log.
 */
void rozo_log_set_sink(rozo_log_sink sink);

/*
 * Writes a line (no line break at the end of the format). Level by its short name:
 * rozo_log(WARNING, "node %u: %s", node, strerror(error)). Keeps errno. Lines are cut at 1 KiB.
 */
#define rozo_log(level, ...) rozo_log_write(ROZO_LOG_##level, __VA_ARGS__)

/*
 * The same for a line that could repeat quickly: at most one each second from this place in the
 * source; the next one tells how many were left out.
 */
#define rozo_log_limited(level, ...)                                                               \
	do {                                                                                       \
		static struct rozo_log_limit rozo_log_limit_;                                      \
		rozo_log_write_limited(&rozo_log_limit_, ROZO_LOG_##level, __VA_ARGS__);           \
	} while (0)

/* For the macros only. */
struct rozo_log_limit {
	_Atomic int64_t next_ms;
	_Atomic uint32_t left_out;
};

void rozo_log_write(enum rozo_log_level level, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void rozo_log_write_limited(struct rozo_log_limit *limit, enum rozo_log_level level,
	const char *format, ...) __attribute__((format(printf, 3, 4)));

#pragma GCC visibility pop

#endif
