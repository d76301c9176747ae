// Ends an agent in the middle of an update, as a kill -9 at one step of it does: laid under the program with LD_PRELOAD. CUT says where: "1 4" is the
// fourth sync of something in the slots before the new program was made one that can be run, "2 3" the third after that. It happens once; what was counted
// is kept in the file CUT_COUNT, since it goes over several processes.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int in_slots(int fd) {
  char link[64], path[512];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return strstr(path, "/slots") != NULL;
}

static void step(int whole) {
  int part, number, counted_part = 1, counted = 0;
  const char *cut = getenv("CUT"), *place = getenv("CUT_COUNT");
  if (!cut || !place || sscanf(cut, "%d %d", &part, &number) != 2) return;
  FILE *file = fopen(place, "r");
  if (file) {
    if (fscanf(file, "%d %d", &counted_part, &counted) != 2) abort();
    fclose(file);
  }
  if (counted_part == 0) return;
  if (whole) {
    if (counted_part == 1) counted_part = 2, counted = 0;
  } else {
    counted++;
  }
  int now = !whole && counted_part == part && counted == number;
  file = fopen(place, "w");
  if (!file) abort();
  fprintf(file, "%d %d\n", now ? 0 : counted_part, counted);
  fclose(file);
  if (now) kill(getpid(), SIGKILL);
}

int fsync(int fd) {
  if (in_slots(fd)) step(0);
  return (int)syscall(SYS_fsync, fd);
}

int fchmod(int fd, mode_t mode) {
  if (in_slots(fd)) step(1);
  return (int)syscall(SYS_fchmod, fd, mode);
}
