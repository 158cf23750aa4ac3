/*
 * How programs of another architecture are run while packages are installed (binfmt_misc, Documentation/admin-guide/
 * binfmt-misc.rst, flags P and F): by the same program of this computer's architecture where there is one below
 * /.native, else by qemu-user.
 *
 * argv: [0] this handler, [1] path of the program, [2] the argv[0] that it was to get, [3...] its arguments.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NATIVE "/.native"
#define MODULES "/usr/lib/x86_64-linux-gnu"
#define LIBRARIES NATIVE MODULES
#define LOADER LIBRARIES "/ld-linux-x86-64.so.2"
#define EMULATOR NATIVE "/qemu-aarch64"
#define LONGEST_PREFIX 6

static void start(char **command)
{
	execv(command[0], command);
	perror(command[0]);
	exit(127);
}

static int can_stand_in(const char *path, const char *native)
{
	/* Who asks for a program's libraries (ldd(1)) wants to copy those of the foreign one. */
	if (access(native, X_OK) != 0 || getenv("LD_TRACE_LOADED_OBJECTS") != NULL)
		return 0;
	/* perl finds its modules by absolute paths, at a place that is not shown all the time (foreign.sh, hide). */
	return strncmp(path, "/usr/bin/perl", strlen("/usr/bin/perl")) != 0 || access(MODULES, F_OK) == 0;
}

int main(int argc, char **argv)
{
	char path[PATH_MAX], native[sizeof NATIVE + PATH_MAX];
	char **command = calloc(argc + LONGEST_PREFIX, sizeof *command);
	int count = 0;

	if (argc < 3 || command == NULL) {
		fputs("usage: handler PROGRAM ARGV0 [ARGUMENT...]\n", stderr);
		return 127;
	}
	/* Alternatives and merged /usr: only the real name says which program it is. */
	if (realpath(argv[1], path) == NULL)
		snprintf(path, sizeof path, "%s", argv[1]);
	snprintf(native, sizeof native, "%s%s", NATIVE, path);
	if (can_stand_in(path, native)) {
		/* Its own loader: the one that the program names is not in the foreign root. */
		command[count++] = LOADER;
		command[count++] = "--library-path";
		command[count++] = LIBRARIES;
		command[count++] = "--argv0";
		command[count++] = argv[2];
		command[count++] = native;
	} else {
		command[count++] = EMULATOR;
		command[count++] = "-0";
		command[count++] = argv[2];
		command[count++] = argv[1];
	}
	for (int i = 3; i < argc; i++)
		command[count++] = argv[i];
	start(command);
}
