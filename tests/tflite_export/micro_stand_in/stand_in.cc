// Plays an interpreter on this machine. The file STAND_IN_ANSWERS has in its first line how many
// inputs and outputs there are and the size of each; then the answers, as bytes. What the program
// sets as inputs goes to the file STAND_IN_INPUTS.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "same_everywhere.h"

namespace {

std::FILE* answers = nullptr;
std::FILE* seen = nullptr;
std::vector<TfLiteTensor> inputs, outputs;

bool ReadTensors(std::vector<TfLiteTensor>* tensors) {
  size_t count = 0;
  if (std::fscanf(answers, "%zu", &count) != 1) return false;
  for (size_t i = 0; i < count; ++i) {
    TfLiteTensor tensor;
    if (std::fscanf(answers, "%zu", &tensor.bytes) != 1) return false;
    tensor.data.int8 = static_cast<int8_t*>(std::calloc(tensor.bytes, 1));
    tensors->push_back(tensor);
  }
  return true;
}

}  // namespace

void MicroPrintf(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
}

namespace tflite {

TfLiteStatus MicroInterpreter::AllocateTensors() {
  answers = std::fopen(std::getenv("STAND_IN_ANSWERS"), "rb");
  seen = std::fopen(std::getenv("STAND_IN_INPUTS"), "wb");
  if (arena_size_ == 0 || answers == nullptr || seen == nullptr) return kTfLiteError;
  const bool read = ReadTensors(&inputs) && ReadTensors(&outputs);
  return read && std::fgetc(answers) == '\n' ? kTfLiteOk : kTfLiteError;
}

TfLiteStatus MicroInterpreter::Invoke() {
  for (const TfLiteTensor& tensor : inputs) {
    std::fwrite(tensor.data.int8, 1, tensor.bytes, seen);
  }
  std::fflush(seen);
  for (const TfLiteTensor& tensor : outputs) {
    if (std::fread(tensor.data.int8, 1, tensor.bytes, answers) != tensor.bytes) return kTfLiteError;
  }
  return kTfLiteOk;
}

TfLiteTensor* MicroInterpreter::input(size_t index) {
  return index < inputs.size() ? &inputs[index] : nullptr;
}

TfLiteTensor* MicroInterpreter::output(size_t index) {
  return index < outputs.size() ? &outputs[index] : nullptr;
}

}  // namespace tflite
