//===- CudaCache.cpp - Compiled GPU code on disk --------------------------===//
//
// One file per key: a header with sizes and hashes, then the cubin. Files are
// written beside and renamed, so that readers see whole ones; what does not
// verify counts as absent and is written anew. No failure is an error.
//
//===----------------------------------------------------------------------===//

#include "runtime/CudaCache.h"
#include "runtime/CudaTable.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace dsc_rt;

namespace {

constexpr char kMagic[8] = {'D', 'S', 'C', 'C', 'U', 'B', '\0', '\1'};
constexpr size_t kMaxBytes = size_t(1) << 31;

struct Header {
  char magic[8];
  uint64_t key[2];
  uint64_t size;
  uint64_t hash[2]; // of the cubin
};

/// 128 bits, against accidents only: who can write here can write programs.
struct Hash {
  uint64_t words[2] = {0x9e3779b97f4a7c15ull, 0xc2b2ae3d27d4eb4full};

  void add(uint64_t value) {
    words[0] = mixBits(words[0] ^ value);
    words[1] = mixBits(words[1] + value) ^ words[0];
  }
  void add(const void *data, size_t size) {
    auto *bytes = static_cast<const unsigned char *>(data);
    for (size_t at = 0; at < size; at += 8) {
      uint64_t value = 0;
      memcpy(&value, bytes + at, size - at < 8 ? size - at : 8);
      add(value);
    }
    add(size);
  }
};

bool pathOf(const char *folder, const CubinKey &key, const char *suffix, char *out, size_t size) {
  int length = snprintf(out, size, "%s/%016llx%016llx.cubin%s", folder, (unsigned long long)key.words[0],
                        (unsigned long long)key.words[1], suffix);
  return length > 0 && static_cast<size_t>(length) < size;
}

bool readAll(int file, void *data, size_t size) {
  for (size_t done = 0; done < size;) {
    ssize_t got = read(file, static_cast<char *>(data) + done, size - done);
    if (got <= 0)
      return false;
    done += static_cast<size_t>(got);
  }
  return true;
}

bool writeAll(int file, const void *data, size_t size) {
  for (size_t done = 0; done < size;) {
    ssize_t put = write(file, static_cast<const char *>(data) + done, size - done);
    if (put <= 0)
      return false;
    done += static_cast<size_t>(put);
  }
  return true;
}

Header headerOf(const CubinKey &key, const void *cubin, size_t size) {
  Header header = {};
  Hash hash;
  hash.add(cubin, size);
  memcpy(header.magic, kMagic, sizeof(kMagic));
  memcpy(header.key, key.words, sizeof(header.key));
  header.size = size;
  memcpy(header.hash, hash.words, sizeof(header.hash));
  return header;
}

} // namespace

CubinKey::CubinKey(const void *ptx, size_t size, const dsc_rt_gpu_device &device) {
  Hash hash;
  hash.add(ptx, size);
  hash.add(static_cast<uint64_t>(device.driver));
  hash.add(static_cast<uint64_t>(10 * device.major + device.minor));
  memcpy(words, hash.words, sizeof(words));
}

void *dsc_rt::readCubin(const char *folder, const CubinKey &key, size_t *size) {
  char path[4096];
  if (!pathOf(folder, key, "", path, sizeof(path)))
    return nullptr;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0)
    return nullptr;
  Header found;
  struct stat status;
  void *cubin = nullptr;
  if (fstat(file, &status) == 0 && readAll(file, &found, sizeof(found)) && found.size > 0 && found.size < kMaxBytes &&
      static_cast<uint64_t>(status.st_size) == sizeof(found) + found.size && (cubin = malloc(found.size))) {
    Header wanted = {};
    if (readAll(file, cubin, found.size))
      wanted = headerOf(key, cubin, found.size);
    if (memcmp(&found, &wanted, sizeof(found)) != 0) {
      free(cubin);
      cubin = nullptr;
    }
  }
  close(file);
  *size = cubin ? found.size : 0;
  return cubin;
}

void dsc_rt::writeCubin(const char *folder, const CubinKey &key, const void *cubin, size_t size) {
  char path[4096], beside[4096], suffix[32];
  // Another process may write the same: each has a file of its own until it is whole.
  snprintf(suffix, sizeof(suffix), ".%ld.tmp", static_cast<long>(getpid()));
  if (!pathOf(folder, key, "", path, sizeof(path)) || !pathOf(folder, key, suffix, beside, sizeof(beside)))
    return;
  mkdir(folder, 0777); // its parents are the caller's
  int file = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0)
    return;
  Header header = headerOf(key, cubin, size);
  bool whole = writeAll(file, &header, sizeof(header)) && writeAll(file, cubin, size);
  whole = close(file) == 0 && whole;
  if (!whole || rename(beside, path) != 0)
    unlink(beside);
}
