// Plays an interpreter on a Cortex-M without an operating system. The answers are compiled in, and
// QEMU prints what the program says. A test links this file in place of stand_in.cc.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "same_everywhere.h"

// Written by the test: sizes of inputs and outputs, what they have to be, and the answers.
extern const size_t kInputCount, kOutputCount, kInputSizes[], kOutputSizes[];
extern const int8_t kExpectedInputs[], kAnswers[];
extern const size_t kAnswerBytes;

int main();
extern "C" uint32_t stack_top;

namespace {

constexpr size_t kMost = 8, kRoom = 1 << 14;
int8_t memory[kRoom];
TfLiteTensor inputs[kMost], outputs[kMost];
size_t used = 0, answered = 0, asked = 0;

void Semihosting(int operation, const void* argument) {
  register int r0 asm("r0") = operation;
  register const void* r1 asm("r1") = argument;
  asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

void Print(const char* text) { Semihosting(0x04, text); }

void PrintNumber(int number) {
  char digits[12];
  char* place = digits + sizeof(digits) - 1;
  *place = 0;
  unsigned rest = number < 0 ? 0u - static_cast<unsigned>(number) : static_cast<unsigned>(number);
  do {
    *--place = static_cast<char>('0' + rest % 10);
    rest /= 10;
  } while (rest != 0);
  if (number < 0) *--place = '-';
  Print(place);
}

bool Make(TfLiteTensor* tensors, const size_t* sizes, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (i == kMost || used + sizes[i] > kRoom) return false;
    tensors[i].bytes = sizes[i];
    tensors[i].data.int8 = memory + used;
    used += sizes[i];
  }
  return true;
}

[[noreturn]] void Exit(int status) {
  const uint32_t block[] = {0x20026u, static_cast<uint32_t>(status)};
  Semihosting(0x20, block);
  for (;;) {
  }
}

}  // namespace

extern "C" {

void* memcpy(void* to, const void* from, size_t size) {
  for (size_t i = 0; i < size; ++i) static_cast<char*>(to)[i] = static_cast<const char*>(from)[i];
  return to;
}

void* memset(void* to, int value, size_t size) {
  for (size_t i = 0; i < size; ++i) static_cast<char*>(to)[i] = static_cast<char>(value);
  return to;
}

[[noreturn]] void Fault() { Exit(99); }

[[noreturn]] void Start() {
  *reinterpret_cast<volatile uint32_t*>(0xE000ED88) |= 0xFu << 20;  // vectors and floats, if any
  asm volatile("dsb\n isb" ::: "memory");
  Exit(main());
}

__attribute__((section(".vectors"), used)) const void* const vectors[] = {
    &stack_top,
    reinterpret_cast<void*>(Start),
    reinterpret_cast<void*>(Fault),
    reinterpret_cast<void*>(Fault),
};
}

void MicroPrintf(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  for (const char* place = format; *place != 0; ++place) {
    if (place[0] == '%' && place[1] == 'd') {
      PrintNumber(va_arg(arguments, int));
      ++place;
    } else {
      const char one[] = {*place, 0};
      Print(one);
    }
  }
  va_end(arguments);
  Print("\n");
}

namespace tflite {

TfLiteStatus MicroInterpreter::AllocateTensors() {
  const bool made = Make(inputs, kInputSizes, kInputCount) &&
                    Make(outputs, kOutputSizes, kOutputCount);
  return made && arena_size_ != 0 ? kTfLiteOk : kTfLiteError;
}

TfLiteStatus MicroInterpreter::Invoke() {
  for (size_t i = 0; i < kInputCount; ++i) {
    for (size_t j = 0; j < inputs[i].bytes; ++j) {
      if (inputs[i].data.int8[j] != kExpectedInputs[asked++]) return kTfLiteError;
    }
  }
  for (size_t i = 0; i < kOutputCount; ++i) {
    if (answered + outputs[i].bytes > kAnswerBytes) return kTfLiteError;
    memcpy(outputs[i].data.int8, kAnswers + answered, outputs[i].bytes);
    answered += outputs[i].bytes;
  }
  return kTfLiteOk;
}

TfLiteTensor* MicroInterpreter::input(size_t index) {
  return index < kInputCount ? &inputs[index] : nullptr;
}

TfLiteTensor* MicroInterpreter::output(size_t index) {
  return index < kOutputCount ? &outputs[index] : nullptr;
}

}  // namespace tflite
