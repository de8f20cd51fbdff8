/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* See die_at_message.h. The count is guarded by a lock of its own, which is taken last. */
#include "stripe/die_at_message.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const char *armed_by; /* NULL: never; set once */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned int messages; /* since FILE is there; guarded by lock */
static _Thread_local bool exempt;

static void look_at_environment(void)
{
	armed_by = getenv("ROZO_TEST_DIE_AT_MESSAGE");
}

bool die_at_message(void)
{
	unsigned int wanted = 0;
	int process = 0;

	pthread_once(&once, look_at_environment);
	if (!armed_by || exempt)
		return false;
	pthread_mutex_lock(&lock);
	FILE *file = fopen(armed_by, "re");
	if (!file || fscanf(file, "%d %u", &process, &wanted) != 2 || process != getpid())
		messages = 0;
	else
		messages++;
	bool die = messages && messages == wanted;
	if (file)
		fclose(file);
	pthread_mutex_unlock(&lock);
	return die;
}

void die_at_message_exempt(void)
{
	exempt = true;
}

_Noreturn void die_now(void)
{
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}
