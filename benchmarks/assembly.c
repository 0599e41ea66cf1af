/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An overlay assembled by the calls that it takes, and nothing else: the peer of assembly.py.
 *
 * usage: assembly AT UPPER WORK LOWER...
 *
 * Each layer is opened and given by descriptor (FSCONFIG_SET_FD of lowerdir+, Linux 6.13). Prints
 * the seconds from fsopen(2) to move_mount(2); exit status 1 when a call fails.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* include/uapi/linux/mount.h; the numbers are the same on all architectures but Alpha and MIPS */
enum { SYS_MOVE_MOUNT = 429, SYS_FSOPEN = 430, SYS_FSCONFIG = 431, SYS_FSMOUNT = 432 };
enum { SET_STRING = 1, SET_FD = 5, CMD_CREATE = 6 };
enum { FROM_EMPTY_PATH = 4, CLOEXEC = 1 };

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void layer(int context, const char *key, const char *path)
{
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		fail(path);
	if (syscall(SYS_FSCONFIG, context, SET_FD, key, NULL, fd) < 0)
		fail(key);
	close(fd);
}

int main(int argc, char **argv)
{
	struct timespec begin, end;
	int context, mount, number;

	if (argc < 5)
		return 2;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	context = syscall(SYS_FSOPEN, "overlay", CLOEXEC);
	if (context < 0)
		fail("fsopen");
	syscall(SYS_FSCONFIG, context, SET_STRING, "source", "overlay", 0);
	for (number = 4; number < argc; number++)
		layer(context, "lowerdir+", argv[number]);
	layer(context, "upperdir", argv[2]);
	layer(context, "workdir", argv[3]);
	if (syscall(SYS_FSCONFIG, context, CMD_CREATE, NULL, NULL, 0) < 0)
		fail("fsconfig create");
	mount = syscall(SYS_FSMOUNT, context, CLOEXEC, 0);
	if (mount < 0)
		fail("fsmount");
	if (syscall(SYS_MOVE_MOUNT, mount, "", AT_FDCWD, argv[1], FROM_EMPTY_PATH) < 0)
		fail("move_mount");
	close(mount);
	close(context);
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%.6f\n", (end.tv_sec - begin.tv_sec) + (end.tv_nsec - begin.tv_nsec) / 1e9);
	return 0;
}
