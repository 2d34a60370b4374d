//===- CudaTable.h - A map of addresses (internal) ------------------------===//

#ifndef DSC_RT_CUDATABLE_H
#define DSC_RT_CUDATABLE_H

#include <stdint.h>
#include <stdlib.h>

namespace dsc_rt {

inline uint64_t mixBits(uint64_t value) { // the finalizer of MurmurHash3, public domain
  value = (value ^ value >> 33) * 0xff51afd7ed558ccdull;
  value = (value ^ value >> 33) * 0xc4ceb9fe1a85ec53ull;
  return value ^ value >> 33;
}

/// Addresses (not 0) to pointers; open addressing, at most half full. All zero
/// is the empty table.
class Table {
public:
  void *find(uint64_t key) const {
    for (uint32_t i = start(key); slots && slots[i].key; i = (i + 1) & mask)
      if (slots[i].key == key)
        return slots[i].value;
    return nullptr;
  }

  /// False when memory is out. The key must not be there.
  bool insert(uint64_t key, void *value) {
    if (!slots || 2 * (count + 1) > mask + 1)
      if (!grow())
        return false;
    put({key, value});
    ++count;
    return true;
  }

  void *erase(uint64_t key) {
    if (!slots)
      return nullptr;
    uint32_t hole = start(key);
    while (slots[hole].key && slots[hole].key != key)
      hole = (hole + 1) & mask;
    if (!slots[hole].key)
      return nullptr;
    void *value = slots[hole].value;
    slots[hole].key = 0;
    --count;
    // Later ones of the same run may have been put behind the hole: put them anew.
    for (uint32_t i = (hole + 1) & mask; slots[i].key; i = (i + 1) & mask) {
      Slot moved = slots[i];
      slots[i].key = 0;
      put(moved);
    }
    return value;
  }

  /// Drops the entries whose value `drop` says true of; it is asked once for each of those, often of others.
  template <typename Drop> void eraseIf(Drop drop) {
    for (uint32_t i = 0; slots && i <= mask;)
      if (slots[i].key && drop(slots[i].value)) {
        erase(slots[i].key);
        i = 0; // others have moved
      } else {
        ++i;
      }
  }

  void release() {
    free(slots);
    slots = nullptr;
    mask = count = 0;
  }

private:
  struct Slot {
    uint64_t key;
    void *value;
  };
  uint32_t start(uint64_t key) const { return static_cast<uint32_t>(mixBits(key)) & mask; }
  void put(Slot slot) {
    uint32_t i = start(slot.key);
    while (slots[i].key)
      i = (i + 1) & mask;
    slots[i] = slot;
  }
  bool grow() {
    uint32_t size = slots ? 2 * (mask + 1) : 64;
    auto *larger = static_cast<Slot *>(calloc(size, sizeof(Slot)));
    if (!larger)
      return false;
    Slot *old = slots;
    uint32_t oldSize = slots ? mask + 1 : 0;
    slots = larger;
    mask = size - 1;
    for (uint32_t i = 0; i < oldSize; ++i)
      if (old[i].key)
        put(old[i]);
    free(old);
    return true;
  }

  Slot *slots;
  uint32_t mask, count;
};

} // namespace dsc_rt

#endif // DSC_RT_CUDATABLE_H
