// What both stand-ins do alike: they look at the file and at the arena.
#ifndef STAND_IN_SAME_EVERYWHERE_H_
#define STAND_IN_SAME_EVERYWHERE_H_

#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/system_setup.h"

namespace tflite {

void InitializeTarget() {}

const Model* GetModel(const void* data) {
  const char* head = static_cast<const char*>(data) + 4;
  const bool named = head[0] == 'T' && head[1] == 'F' && head[2] == 'L' && head[3] == '3';
  const bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0;
  return named && aligned ? reinterpret_cast<const Model*>(data) : nullptr;
}

MicroInterpreter::MicroInterpreter(const Model* model, const MicroOpResolver&, uint8_t* arena,
                                   size_t arena_size)
    : arena_size_(model != nullptr && arena != nullptr ? arena_size : 0) {}

size_t MicroInterpreter::arena_used_bytes() const { return arena_size_; }

}  // namespace tflite

#endif  // STAND_IN_SAME_EVERYWHERE_H_
