/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * rozo-storaged: one storage node. Its store served to the other nodes and the FSAL, its NFSv3 data
 * server to clients; heartbeat, healer and scrubber in the background. Runs in the foreground, logs
 * to stderr, ends cleanly on SIGTERM and SIGINT.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "rpc/log.h"
#include "storaged/gateway.h"
#include "storaged/gateway_watch.h"
#include "storaged/healer.h"
#include "storaged/heartbeat.h"
#include "storaged/scrubber.h"
#include "storaged/store.h"
#include "stripe/stripe.h"

#define ERROR_BYTES 4096
#define VERIFY_FAILED 2 /* status of --verify: 1 is for problems on the devices */
/*
 * Calls executed at once by each service; more wait in the sockets. A WRITE of 1 MiB in the gateway
 * takes about 5 MiB for its data, the shards and their messages.
 */
#define STORE_THREADS 32
#define GATEWAY_THREADS 12
/*
 * For one call of the node's own store: a disk that is only busy flushes within that, and with what
 * comes after it clients wait for less than a minute.
 */
#define OWN_STORE_PATIENCE_MS 30000
/*
 * Of each device, for small changes. Half of it is some 4000 small files; it takes longer to write
 * those than to flush them in the background.
 */
#define LOG_BYTES (32 << 20)
/* Until what is in the log is flushed to the files, if there is no need for it before. */
#define LOG_CHECKPOINT_MS 30000
/* Buffers below this size come from the heap, so that they are not mapped anew for every call. */
#define HEAP_THRESHOLD_BYTES (4 << 20)

static const char usage[] =
	"Usage: rozo-storaged --config FILE --node ID [--check | --init | --verify]\n"
	"Serves one storage node of a Rozo cluster. SIGHUP: reads the rates of healing and\n"
	"scrubbing again.\n"
	"\n"
	"  -c, --config FILE  the cluster's configuration (JSON)\n"
	"  -n, --node ID      which of its nodes this is\n"
	"      --check        validate the configuration and exit\n"
	"      --init         make the node's empty device directories ready, and exit; those "
	"that\n"
	"                     are ready stay as they are\n"
	"      --verify       read everything on the devices of a node that does not run, name\n"
	"                     what is wrong, change nothing; status 0: nothing is, 1: something\n"
	"                     is, 2: could not be found out\n"
	"      --log LEVEL    error, warning, info (default) or debug\n"
	"  -h, --help         show this text\n"
	"  -V, --version      show the version\n";

struct options {
	const char *config;
	uint32_t node;
	bool check;
	bool init;
	bool verify;
};

/* Returns -1 to go on, else the status to exit with. */
static int parse_options(int argc, char **argv, struct options *options)
{
	enum { CHECK = 256, INIT, LOG, VERIFY };
	static const struct option known[] = {
		{"config", required_argument, NULL, 'c'},
		{"node", required_argument, NULL, 'n'},
		{"check", no_argument, NULL, CHECK},
		{"init", no_argument, NULL, INIT},
		{"log", required_argument, NULL, LOG},
		{"verify", no_argument, NULL, VERIFY},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{0},
	};
	unsigned long node = 0;
	char *end;
	int option;

	while ((option = getopt_long(argc, argv, "c:n:hV", known, NULL)) != -1) {
		switch (option) {
		case 'c':
			options->config = optarg;
			break;
		case 'n':
			node = strtoul(optarg, &end, 10);
			if (*end || node == 0 || node > CONFIG_NODE_ID_MAX) {
				fprintf(stderr,
					"rozo-storaged: --node %s: give a number from 1 to %d\n",
					optarg, CONFIG_NODE_ID_MAX);
				return EXIT_FAILURE;
			}
			options->node = (uint32_t)node;
			break;
		case CHECK:
			options->check = true;
			break;
		case INIT:
			options->init = true;
			break;
		case VERIFY:
			options->verify = true;
			break;
		case LOG:
			if (!rozo_log_set_level_by_name(optarg)) {
				fprintf(stderr,
					"rozo-storaged: --log %s: give error, warning, info or "
					"debug\n",
					optarg);
				return EXIT_FAILURE;
			}
			break;
		case 'h':
			fputs(usage, stdout);
			return EXIT_SUCCESS;
		case 'V':
			puts("rozo-storaged " ROZO_VERSION);
			return EXIT_SUCCESS;
		default:
			fputs(usage, stderr);
			return EXIT_FAILURE;
		}
	}
	if (optind != argc || !options->config || (!options->node && !options->check)) {
		fputs(usage, stderr);
		return EXIT_FAILURE;
	}
	return -1;
}

static void log_lines(const char *text)
{
	while (*text) {
		size_t length = strcspn(text, "\n");
		rozo_log(ERROR, "%.*s", (int)length, text);
		text += length + (text[length] == '\n');
	}
}

/* Makes devices of the node's empty directories; those that are devices already stay as they are.
 */
static int init_devices(const struct config *config, const struct config_node *node)
{
	int status = EXIT_SUCCESS;
	char error[ERROR_BYTES];

	/* If there is a mistake in one of them, there may be one in the node's number: none is
	 * changed. */
	for (size_t i = 0; i < node->device_count; i++) {
		if (store_check_directory(NULL, node->devices[i], config->cluster_id, node->id,
			    error, sizeof(error)) < 0) {
			log_lines(error);
			status = EXIT_FAILURE;
		}
	}
	for (size_t i = 0; i < node->device_count && status == EXIT_SUCCESS; i++) {
		int result = store_init_device(
			NULL, node->devices[i], config->cluster_id, node->id, error, sizeof(error));

		if (result == -EEXIST) {
			rozo_log(INFO, "%s is a device of node %u already and stays as it is",
				node->devices[i], node->id);
		} else if (result) {
			log_lines(error);
			status = EXIT_FAILURE;
		} else {
			rozo_log(INFO, "%s is ready for node %u", node->devices[i], node->id);
		}
	}
	return status;
}

/* Returns the status to exit with: VERIFY_FAILED, or whether there are problems. */
static int verify_devices(const struct config *config, const struct config_node *node)
{
	const char *devices[node->device_count];
	struct store_verify_summary summary;
	char error[ERROR_BYTES];

	for (size_t i = 0; i < node->device_count; i++)
		devices[i] = node->devices[i];
	struct store_options options = {
		.cluster_id = config->cluster_id,
		.node_id = node->id,
		.devices = devices,
		.device_count = node->device_count,
	};
	if (store_verify(&options, stdout, stderr, &summary, error, sizeof(error))) {
		log_lines(error);
		return VERIFY_FAILED;
	}
	printf("node %u: %" PRIu64 " store files, %" PRIu64 " blocks, %" PRIu64
	       " bytes read: %" PRIu64 " problems\n",
		node->id, summary.files, summary.blocks, summary.bytes, summary.problems);
	/* Who reads the status must be able to rely on the lines. */
	if (fflush(stdout) != 0 || ferror(stdout)) {
		rozo_log(ERROR, "the problems cannot be written: %s", strerror(errno));
		return VERIFY_FAILED;
	}
	return summary.problems ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int create_stripe(const struct config *config, const struct config_node *self,
	struct gateway_watch *watch, struct stripe **stripe)
{
	struct stripe_node *nodes = calloc(config->node_count, sizeof(*nodes));

	if (!nodes)
		return -ENOMEM;
	for (size_t i = 0; i < config->node_count; i++)
		nodes[i] = (struct stripe_node){.id = config->nodes[i].id,
			.address = config->nodes[i].address,
			.store_port = config->nodes[i].store_port};
	struct stripe_options options = {
		.nodes = nodes,
		.node_count = config->node_count,
		.exportd_address = config->exportd_address,
		.exportd_port = config->exportd_port,
		.key = &config->key,
		.local_node = self->id,
		.local_call = gateway_watch_call,
		.local_store = watch,
		.cache_bytes = (size_t)config->cache_mib << 20,
		.gather = config->gather_ms != 0,
		.gather_delay_ms = config->gather_ms,
	};
	int error = stripe_create(&options, stripe);
	free(nodes);
	return error;
}

/*
 * Waits until exportd says that nothing in the store has been taken over by other nodes while this
 * one was out of the cluster, and has not been removed. Returns false if a signal says stop.
 */
static bool wait_for_admission(
	uint32_t node_id, struct store *store, struct stripe *stripe, const sigset_t *signals)
{
	const struct timespec pause = {.tv_nsec = 200 * 1000000};
	int error, last = 0;

	while ((error = heartbeat_admission(node_id, store, stripe)) != 0) {
		if (error != last)
			rozo_log(WARNING,
				error == -EAGAIN ? "removing shards that other nodes have taken "
						   "over, before serving: %s"
				: error == -ENOENT
					? "exportd does not know this node: is its cluster.json "
					  "the same as ours? Not serving before it does: %s"
					: "waiting for exportd before serving: %s",
				strerror(-error));
		last = error;
		int received = sigtimedwait(signals, NULL, &pause);
		if (received > 0 && received != SIGHUP) {
			rozo_log(INFO, "stopping on signal %d", received);
			return false;
		}
	}
	return true;
}

/* Reads the configuration again and takes over what may change at run time. */
static void reload(const char *path, struct healer *healer, struct scrubber *scrubber)
{
	char error[ERROR_BYTES];
	struct config *config;

	if (config_load(path, &config, error, sizeof(error))) {
		rozo_log(ERROR, "SIGHUP: nothing was changed:");
		log_lines(error);
		return;
	}
	healer_set_rate(healer, config->heal_mib_per_second);
	scrubber_set_rate(scrubber, config->scrub_mib_per_second, config->scrub_interval_s);
	rozo_log(INFO,
		"SIGHUP: heal_mib_per_second is %u, scrub_mib_per_second %u, scrub_interval_s %u; "
		"other changes of %s count from the next start on",
		config->heal_mib_per_second, config->scrub_mib_per_second, config->scrub_interval_s,
		path);
	config_free(config);
}

/* Serves until a signal says stop. */
static int serve(const struct config *config, const struct config_node *self)
{
	char message[ERROR_BYTES] = "";
	const char *devices[self->device_count];
	struct store *store = NULL;
	struct stripe *stripe = NULL;
	struct rpc_server *store_server = NULL, *gateway_server = NULL;
	struct rpc_program store_service, gateway_service;
	struct gateway gateway = {.node_id = self->id};
	struct gateway_watch watch;
	bool watching = false;
	struct heartbeat *heartbeat = NULL;
	struct healer *healer = NULL;
	struct scrubber *scrubber = NULL;
	struct work work;
	sigset_t signals;
	int received, status = EXIT_FAILURE;

	work_init(&work);

	/* Before any thread starts, so that all of them inherit it. */
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);

	for (size_t i = 0; i < self->device_count; i++)
		devices[i] = self->devices[i];
	struct store_options options = {
		.cluster_id = config->cluster_id,
		.node_id = self->id,
		.devices = devices,
		.device_count = self->device_count,
		.log_bytes = LOG_BYTES,
		.log_checkpoint_ms = LOG_CHECKPOINT_MS,
	};
	int error = store_open(&store, &options, message, sizeof(message));
	log_lines(message);
	if (error)
		goto out;
	gateway_watch_init(&watch, store, OWN_STORE_PATIENCE_MS);
	error = create_stripe(config, self, &watch, &stripe);
	if (error) {
		rozo_log(ERROR, "cannot start the stripe engine: %s", strerror(-error));
		goto out;
	}
	config_handle_key(config, gateway.handle_key);
	if (!wait_for_admission(self->id, store, stripe, &signals)) {
		status = EXIT_SUCCESS;
		goto out;
	}
	gateway.stripe = stripe;
	store_program(store, &store_service);
	gateway_program(&gateway, &gateway_service);
	if (rpc_server_start(&store_server, self->address, self->store_port, &store_service,
		    &config->key, STORE_THREADS) ||
		rpc_server_start(&gateway_server, self->address, self->nfs_port, &gateway_service,
			NULL, GATEWAY_THREADS))
		goto out;
	error = gateway_watch_start(&watch, gateway_server);
	watching = !error;
	if (!error)
		error = heartbeat_start(&heartbeat, self->id, store, stripe, &work);
	if (!error)
		error = healer_start(
			&healer, self->id, store, stripe, &work, config->heal_mib_per_second);
	struct scrubber_options scrub = {
		.node_id = self->id,
		.devices = devices,
		.device_count = self->device_count,
		.mib_per_second = config->scrub_mib_per_second,
		.interval_s = config->scrub_interval_s,
	};
	if (!error)
		error = scrubber_start(&scrubber, store, stripe, &work, &scrub);
	if (error) {
		rozo_log(ERROR, "cannot start a thread: %s", strerror(-error));
		goto out;
	}
	rozo_log(INFO, "node %u serves its store on %s port %u and NFSv3 on port %u", self->id,
		self->address, self->store_port, self->nfs_port);
	while (sigwait(&signals, &received) == 0 && received == SIGHUP)
		reload(config->path, healer, scrubber);
	rozo_log(INFO, "stopping on signal %d", received);
	status = EXIT_SUCCESS;
out:
	if (watching)
		gateway_watch_stop(&watch);
	if (gateway_server)
		rpc_server_stop(gateway_server);
	if (scrubber)
		scrubber_stop(scrubber);
	if (healer)
		healer_stop(healer);
	if (heartbeat)
		heartbeat_stop(heartbeat);
	if (stripe)
		stripe_destroy(stripe);
	if (store_server)
		rpc_server_stop(store_server);
	if (store) {
		gateway_watch_destroy(&watch);
		store_close(store);
	}
	work_destroy(&work);
	return status;
}

int main(int argc, char **argv)
{
	struct options options = {0};
	char error[ERROR_BYTES];
	struct config *config;
	int failed = EXIT_FAILURE;

	/* With --verify, mistakes made before it, too, are no problems of the devices. */
	for (int i = 1; i < argc; i++)
		failed = strcmp(argv[i], "--verify") ? failed : VERIFY_FAILED;
	int status = parse_options(argc, argv, &options);
	if (status >= 0)
		return status == EXIT_FAILURE ? failed : status;
	mallopt(M_MMAP_THRESHOLD, HEAP_THRESHOLD_BYTES);
	mallopt(M_TRIM_THRESHOLD, 4 * HEAP_THRESHOLD_BYTES);
	mallopt(M_ARENA_MAX, 4);
	if (config_load(options.config, &config, error, sizeof(error))) {
		log_lines(error);
		return failed;
	}
	const struct config_node *node = options.node ? config_node(config, options.node) : NULL;
	if (options.node && !node) {
		rozo_log(ERROR, "%s: there is no node %u; give one of the ids under \"nodes\"",
			options.config, options.node);
		status = failed;
	} else if (options.check) {
		printf("%s is valid\n", options.config);
		status = EXIT_SUCCESS;
	} else if (options.init) {
		status = init_devices(config, node);
	} else if (options.verify) {
		status = verify_devices(config, node);
	} else {
		status = serve(config, node);
	}
	config_free(config);
	return status;
}
