/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The log. A line is one write(2), so lines of several threads do not mix and no lock is needed.
 * Under systemd, stderr is the journal: lines carry the level as "<N>" and no time, which journald
 * adds itself.
 */
#include "rpc/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 1024
#define LIMIT_MS 1000

static _Atomic int log_level = ROZO_LOG_INFO;
static _Atomic(rozo_log_sink) log_sink;

void rozo_log_set_level(enum rozo_log_level level)
{
	atomic_store(&log_level, level);
}

bool rozo_log_set_level_by_name(const char *name)
{
	static const struct {
		const char *name;
		enum rozo_log_level level;
	} names[] = {
		{"error", ROZO_LOG_ERROR},
		{"warning", ROZO_LOG_WARNING},
		{"info", ROZO_LOG_INFO},
		{"debug", ROZO_LOG_DEBUG},
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(name, names[i].name)) {
			rozo_log_set_level(names[i].level);
			return true;
		}
	}
	return false;
}

void rozo_log_set_sink(rozo_log_sink sink)
{
	atomic_store(&log_sink, sink);
}

/* sd-daemon's rule: $JOURNAL_STREAM names the device and inode that stderr must be. */
static bool stderr_is_journal(void)
{
	static _Atomic int known = -1;
	int answer = atomic_load(&known);

	if (answer < 0) {
		const char *stream = getenv("JOURNAL_STREAM");
		unsigned long long device, inode;
		struct stat status;

		answer = stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
			 !fstat(STDERR_FILENO, &status) && status.st_dev == device &&
			 status.st_ino == inode;
		atomic_store(&known, answer);
	}
	return answer;
}

static const char *level_name(enum rozo_log_level level)
{
	switch (level) {
	case ROZO_LOG_ERROR:
		return "ERROR";
	case ROZO_LOG_WARNING:
		return "WARNING";
	case ROZO_LOG_INFO:
		return "INFO";
	case ROZO_LOG_DEBUG:
		return "DEBUG";
	}
	return "?";
}

static void write_stderr(enum rozo_log_level level, const char *line)
{
	char out[LINE_BYTES + 64];
	int bytes;

	if (stderr_is_journal()) {
		bytes = snprintf(out, sizeof(out), "<%d>%s\n", level, line);
	} else {
		struct timespec now;
		struct tm parts;
		char when[32];

		clock_gettime(CLOCK_REALTIME, &now);
		localtime_r(&now.tv_sec, &parts);
		strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &parts);
		bytes = snprintf(out, sizeof(out), "%s.%03ld %s %s\n", when, now.tv_nsec / 1000000,
			level_name(level), line);
	}
	/* Nowhere to tell of a log that cannot be written. */
	(void)!write(STDERR_FILENO, out, (size_t)bytes);
}

static void emit(
	enum rozo_log_level level, const char *format, va_list arguments, uint32_t left_out)
{
	rozo_log_sink sink = atomic_load(&log_sink);
	char line[LINE_BYTES];
	int used;

	used = vsnprintf(line, sizeof(line), format, arguments);
	if (used < 0)
		return;
	if (left_out && (size_t)used < sizeof(line))
		snprintf(line + used, sizeof(line) - (size_t)used, " (%u like this were left out)",
			left_out);
	if (sink)
		sink(level, line);
	else
		write_stderr(level, line);
}

void rozo_log_write(enum rozo_log_level level, const char *format, ...)
{
	int saved_errno = errno;
	va_list arguments;

	if ((int)level > atomic_load_explicit(&log_level, memory_order_relaxed))
		return;
	va_start(arguments, format);
	emit(level, format, arguments, 0);
	va_end(arguments);
	errno = saved_errno;
}

void rozo_log_write_limited(
	struct rozo_log_limit *limit, enum rozo_log_level level, const char *format, ...)
{
	int saved_errno = errno;
	struct timespec now;
	int64_t now_ms, next_ms;
	va_list arguments;

	if ((int)level > atomic_load_explicit(&log_level, memory_order_relaxed))
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	now_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
	next_ms = atomic_load(&limit->next_ms);
	if (now_ms < next_ms ||
		!atomic_compare_exchange_strong(&limit->next_ms, &next_ms, now_ms + LIMIT_MS)) {
		atomic_fetch_add(&limit->left_out, 1);
	} else {
		va_start(arguments, format);
		emit(level, format, arguments, atomic_exchange(&limit->left_out, 0));
		va_end(arguments);
	}
	errno = saved_errno;
}
