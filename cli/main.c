/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * rozo: the administrator's command. Asks exportd, which knows from heartbeats what every node
 * does; changes nothing.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/status.h"
#include "rpc/log.h"
#include "rpc/rpc.h"

#define DEFAULT_CONFIG "/etc/rozo/cluster.json"
#define TIMEOUT_MS 10000

enum exit_status {
	EXIT_HEALTHY = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_DEGRADED = 3,
};

static const char usage_text[] =
	"Usage: rozo [--config FILE] status [--json]\n"
	"\n"
	"  status         nodes up, down and out; what they missed, healing, rebuilding and "
	"scrubbing\n"
	"  --json         the same as one JSON object\n"
	"  --config FILE  the cluster's configuration (default " DEFAULT_CONFIG ")\n"
	"  --help         show this text\n"
	"  --version      show the version\n"
	"\n"
	"Exit status of status: 0 all is well, 3 something is missing or waits to be done, 1 it "
	"could\n"
	"not be found out, 2 wrong usage.\n";

struct options {
	const char *config;
	bool json;
};

/* Returns -1 to go on, else the status to exit with. */
static int parse_options(int argc, char **argv, struct options *options)
{
	static const struct option known[] = {
		{"config", required_argument, NULL, 'c'},
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{0},
	};
	int option;

	options->config = DEFAULT_CONFIG;
	while ((option = getopt_long(argc, argv, "c:jhV", known, NULL)) != -1) {
		switch (option) {
		case 'c':
			options->config = optarg;
			break;
		case 'j':
			options->json = true;
			break;
		case 'h':
			fputs(usage_text, stdout);
			return EXIT_HEALTHY;
		case 'V':
			puts("rozo " ROZO_VERSION);
			return EXIT_HEALTHY;
		default:
			fputs("Try rozo --help.\n", stderr);
			return EXIT_USAGE;
		}
	}
	if (optind + 1 != argc || strcmp(argv[optind], "status") != 0) {
		if (optind < argc && strcmp(argv[optind], "status") != 0)
			fprintf(stderr, "rozo: unknown command \"%s\"\n", argv[optind]);
		fputs(usage_text, stderr);
		return EXIT_USAGE;
	}
	return -1;
}

static int show_status(const struct config *config, bool json)
{
	meta_cluster_res cluster = {0};
	struct status status;
	int result = EXIT_FAILED;
	struct rpc_client *meta = rpc_client_create(
		config->exportd_address, config->exportd_port, META_PROGRAM, META_V1, &config->key);

	if (!meta) {
		fprintf(stderr, "rozo: %s\n", strerror(errno));
		return EXIT_FAILED;
	}
	int error = rpc_call(meta, META_CLUSTER, RPC_XDR(xdr_void), NULL,
		RPC_XDR(xdr_meta_cluster_res), &cluster, TIMEOUT_MS);
	if (error || cluster.status) {
		fprintf(stderr, "rozo: exportd at %s port %u %s: %s\n", config->exportd_address,
			config->exportd_port, error ? "does not answer" : "cannot tell",
			strerror(error ? -error : (int)cluster.status));
		goto out;
	}
	error = status_reckon(&cluster, &status);
	if (!error)
		error = json ? status_print_json(&status, stdout) : status_print(&status, stdout);
	if (error)
		fprintf(stderr, "rozo: %s\n", strerror(-error));
	else
		result = status.healthy ? EXIT_HEALTHY : EXIT_DEGRADED;
	free(status.nodes);
out:
	if (!error)
		rpc_free(RPC_XDR(xdr_meta_cluster_res), &cluster);
	rpc_client_destroy(meta);
	return result;
}

int main(int argc, char **argv)
{
	struct options options = {0};
	struct config *config;
	char message[4096];
	int status = parse_options(argc, argv, &options);

	if (status >= 0)
		return status;
	rozo_log_set_level(ROZO_LOG_ERROR);
	if (config_load(options.config, &config, message, sizeof(message))) {
		fprintf(stderr, "%s\n", message);
		return EXIT_FAILED;
	}
	status = show_status(config, options.json);
	config_free(config);
	return status;
}
