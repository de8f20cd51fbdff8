/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * rozo-exportd: the daemon. Options, signals, the timer of the cluster map, start and stop.
 *
 * Runs in the foreground and logs to stderr. SIGTERM and SIGINT are blocked in all threads and
 * taken by the main thread, which is the timer as well.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/config.h"
#include "exportd/exportd.h"
#include "exportd/map.h"
#include "exportd/rebuild.h"
#include "exportd/service.h"
#include "rpc/log.h"
#include "rpc/rpc.h"

/* Calls executed at once. Most wait for a flush, which they share. */
#define EXPORTD_THREADS 32

enum exit_status {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
};

static const char usage_text[] =
	"Usage: rozo-exportd --config PATH [--check | --init | --restored]\n"
	"                    [--log-level LEVEL]\n"
	"\n"
	"The metadata server of a Rozo pNFS cluster. Runs in the foreground, logs to stderr,\n"
	"and stops on SIGTERM. SIGHUP: reads down_out_interval_s again.\n"
	"\n"
	"  --config PATH      the cluster's configuration (JSON)\n"
	"  --check            read and check the configuration, then exit\n"
	"  --init             make new, empty metadata in exportd.data, then exit; once in a\n"
	"                     cluster's life\n"
	"  --restored         the files in exportd.data were restored from a copy: give no new\n"
	"                     file the id of one that was made since the copy, then exit\n"
	"  --log-level LEVEL  error, warning, info (default) or debug\n"
	"  --help             print this\n"
	"  --version          print the version\n"
	"\n"
	"Exit status: 0 success, 1 failure (the reason is on stderr), 2 wrong usage.\n";

struct options {
	const char *config_path;
	bool check;
	bool init;
	bool restored;
};

/* Returns true to go on, or false with the status to exit with. */
static bool options_parse(int argc, char **argv, struct options *options, int *status)
{
	static const struct option known[] = {
		{"config", required_argument, NULL, 'c'},
		{"check", no_argument, NULL, 'k'},
		{"init", no_argument, NULL, 'i'},
		{"restored", no_argument, NULL, 'r'},
		{"log-level", required_argument, NULL, 'l'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'},
		{NULL, 0, NULL, 0},
	};
	int option;

	*status = EXIT_USAGE;
	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case 'c':
			options->config_path = optarg;
			break;
		case 'k':
			options->check = true;
			break;
		case 'i':
			options->init = true;
			break;
		case 'r':
			options->restored = true;
			break;
		case 'l':
			if (!rozo_log_set_level_by_name(optarg)) {
				fprintf(stderr,
					"rozo-exportd: --log-level %s: must be error, warning, "
					"info or debug\n",
					optarg);
				return false;
			}
			break;
		case 'h':
			fputs(usage_text, stdout);
			*status = EXIT_OK;
			return false;
		case 'v':
			puts("rozo-exportd " ROZO_VERSION);
			*status = EXIT_OK;
			return false;
		default: /* getopt_long() has said what is wrong */
			fputs("Try rozo-exportd --help.\n", stderr);
			return false;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "rozo-exportd: unexpected argument \"%s\"; try --help\n",
			argv[optind]);
		return false;
	}
	if (options->config_path == NULL) {
		fputs("rozo-exportd: --config PATH is missing; try --help\n", stderr);
		return false;
	}
	if (options->check + options->init + options->restored > 1) {
		fputs("rozo-exportd: --check, --init and --restored exclude each other\n", stderr);
		return false;
	}
	return true;
}

/* Reads the configuration again and takes over what may change at run time. */
static void reload(struct exportd *exportd)
{
	struct config *config = NULL;
	char error[4096];

	if (config_load(exportd->config->path, &config, error, sizeof(error)) != 0) {
		rozo_log(ERROR, "SIGHUP: nothing was changed: %s", error);
		return;
	}
	map_set_down_out_interval(exportd->map, config->down_out_interval_s);
	rozo_log(INFO,
		"SIGHUP: down_out_interval_s is %u; other changes of %s count from the next start "
		"on",
		config->down_out_interval_s, config->path);
	config_free(config);
}

/* Serves until a signal says stop. */
static void run(struct exportd *exportd, const sigset_t *signals)
{
	uint32_t period_ms = exportd->config->node_down_after_ms / 10;
	struct timespec period;
	int signal_number;

	if (period_ms > 500)
		period_ms = 500;
	if (period_ms < 20)
		period_ms = 20;
	period = (struct timespec){
		.tv_sec = period_ms / 1000,
		.tv_nsec = (long)(period_ms % 1000) * 1000000,
	};
	for (;;) {
		signal_number = sigtimedwait(signals, NULL, &period);
		if (signal_number == SIGHUP) {
			reload(exportd);
		} else if (signal_number > 0) {
			rozo_log(INFO, "stopping on signal %s", strsignal(signal_number));
			return;
		}
		/* What fails has been logged, and is tried again at the next tick. */
		(void)map_tick(exportd->map);
	}
}

static int serve(const struct config *config, const sigset_t *signals)
{
	struct exportd *exportd = NULL;
	struct rpc_server *server = NULL;
	struct rpc_program program;
	struct rebuild *rebuild = NULL;
	uint64_t operations, commits;
	int result;

	result = exportd_open(config, KV_LMDB_MAP_BYTES, &exportd);
	if (result != 0)
		return result;
	service_program(exportd, &program);
	result = rpc_server_start(&server, config->exportd_address, config->exportd_port, &program,
		&config->key, EXPORTD_THREADS);
	if (result == 0) {
		result = rebuild_start(exportd, &rebuild);
		if (result != 0) {
			rozo_log(ERROR, "cannot start a thread: %s", strerror(-result));
			rpc_server_stop(server);
		}
	}
	if (result == 0) {
		rozo_log(INFO,
			"rozo-exportd " ROZO_VERSION ": cluster \"%s\", serving at %s port %u",
			config->cluster_id, config->exportd_address, config->exportd_port);
		run(exportd, signals);
		rebuild_stop(rebuild);
		rpc_server_stop(server);
		commit_counts(exportd->commit, &operations, &commits);
		rozo_log(INFO, "stopped after %llu changes in %llu commits",
			(unsigned long long)operations, (unsigned long long)commits);
	}
	exportd_close(exportd);
	return result;
}

int main(int argc, char **argv)
{
	struct options options = {0};
	struct config *config = NULL;
	char error[4096];
	sigset_t signals;
	int status, result;

	if (!options_parse(argc, argv, &options, &status))
		return status;
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	/* Before any thread is made, so that all inherit it. */
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);

	result = config_load(options.config_path, &config, error, sizeof(error));
	if (result != 0) {
		fprintf(stderr, "%s\n", error);
		return EXIT_FAILED;
	}
	if (options.check)
		printf("%s: the configuration of cluster \"%s\" is valid: %zu nodes, %zu exports\n",
			options.config_path, config->cluster_id, config->node_count,
			config->export_count);
	else if (options.init)
		result = exportd_init(config, KV_LMDB_MAP_BYTES);
	else if (options.restored)
		result = exportd_restored(config, KV_LMDB_MAP_BYTES);
	else
		result = serve(config, &signals);
	config_free(config);
	return result == 0 ? EXIT_OK : EXIT_FAILED;
}
