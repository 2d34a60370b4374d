/* A libnccl.so.2 for tests: every call goes to a log, and does nothing but to check the group's id.
 *
 * ncclCommInitRank waits until all ranks of the id have a file in the folder $FAKE_NCCL_FOLDER, as NCCL waits for its
 * ranks. fake_nccl_fail makes the next call of one function fail; "async" makes a collective fail afterwards. */

#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { char bytes[128]; } Id;
typedef struct { int ranks, rank; } Comm;

static char log_text[1 << 16];
static size_t log_size;
static char failing[64];
static int failing_code, async_code, live;

static void write_log(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(log_text + log_size, sizeof(log_text) - log_size, format, arguments);
  va_end(arguments);
  if (length > 0 && log_size + length < sizeof(log_text))
    log_size += length;
}
static int result(const char *name) {
  if (strcmp(failing, name) != 0)
    return 0;
  failing[0] = '\0';
  return failing_code;
}

const char *fake_nccl_log(void) { return log_text; }
int fake_nccl_live(void) { return live; }
void fake_nccl_fail(const char *name, int code) {
  if (strcmp(name, "async") == 0) {
    async_code = code;
    return;
  }
  snprintf(failing, sizeof(failing), "%s", name);
  failing_code = code;
}

int ncclGetVersion(int *version) {
  *version = 22703;
  return 0;
}
const char *ncclGetErrorString(int code) {
  return code == 6 ? "remote process exited or there was a network error" : "unhandled error";
}
const char *ncclGetLastError(Comm *comm) {
  (void)comm;
  return "socket closed";
}
int ncclGetUniqueId(Id *id) {
  memset(id, 0, sizeof(*id));
  snprintf(id->bytes, sizeof(id->bytes), "id of process %d", (int)getpid());
  id->bytes[127] = 77;
  return result("ncclGetUniqueId");
}
int ncclCommInitRank(Comm **comm, int ranks, Id id, int rank) {
  int code = result("ncclCommInitRank");
  if (code)
    return code;
  if (id.bytes[127] != 77)
    return 4;
  const char *folder = getenv("FAKE_NCCL_FOLDER");
  for (int i = 0; folder && i <= ranks; ++i) { /* this rank's file, then all of them */
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s, rank %d", folder, id.bytes, i == 0 ? rank : i - 1);
    if (i == 0)
      fclose(fopen(path, "w"));
    while (access(path, F_OK) != 0)
      usleep(1000);
  }
  *comm = malloc(sizeof(Comm));
  **comm = (Comm){ranks, rank};
  ++live;
  write_log("init %d of %d, %s\n", rank, ranks, id.bytes);
  return 0;
}
int ncclCommDestroy(Comm *comm) {
  write_log("destroy\n");
  free(comm);
  --live;
  return 0;
}
int ncclCommAbort(Comm *comm) {
  write_log("abort\n");
  free(comm);
  --live;
  return 0;
}
int ncclCommGetAsyncError(Comm *comm, int *code) {
  (void)comm;
  *code = async_code;
  return 0;
}

#define UNUSED (void)source, (void)target, (void)comm, (void)stream
int ncclAllReduce(const void *source, void *target, size_t count, int type, int operation, Comm *comm, void *stream) {
  UNUSED;
  write_log("all_reduce %zu type %d operation %d%s\n", count, type, operation, source == target ? " in place" : "");
  return result("ncclAllReduce");
}
int ncclAllGather(const void *source, void *target, size_t count, int type, Comm *comm, void *stream) {
  UNUSED;
  write_log("all_gather %zu type %d\n", count, type);
  return result("ncclAllGather");
}
int ncclReduceScatter(const void *source, void *target, size_t count, int type, int operation, Comm *comm, void *stream) {
  UNUSED;
  write_log("reduce_scatter %zu type %d operation %d\n", count, type, operation);
  return result("ncclReduceScatter");
}
int ncclBroadcast(const void *source, void *target, size_t count, int type, int root, Comm *comm, void *stream) {
  UNUSED;
  write_log("broadcast %zu type %d root %d\n", count, type, root);
  return result("ncclBroadcast");
}
static const void *first_sent, *first_received; /* offsets are relative to these */
int ncclSend(const void *source, size_t count, int type, int peer, Comm *comm, void *stream) {
  (void)comm, (void)stream;
  first_sent = first_sent ? first_sent : source;
  write_log("send %zu type %d to %d at %td\n", count, type, peer, (const char *)source - (const char *)first_sent);
  return result("ncclSend");
}
int ncclRecv(void *target, size_t count, int type, int peer, Comm *comm, void *stream) {
  (void)comm, (void)stream;
  first_received = first_received ? first_received : target;
  write_log("receive %zu type %d from %d at %td\n", count, type, peer, (char *)target - (const char *)first_received);
  return result("ncclRecv");
}
int ncclGroupStart(void) {
  first_sent = first_received = NULL;
  write_log("group\n");
  return result("ncclGroupStart");
}
int ncclGroupEnd(void) {
  first_sent = first_received = NULL;
  write_log("end\n");
  return result("ncclGroupEnd");
}
