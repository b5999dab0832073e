// A stand-in for the part of TensorFlow Lite Micro that exported sources use.
#ifndef STAND_IN_COMMON_H_
#define STAND_IN_COMMON_H_

#include <stddef.h>
#include <stdint.h>

enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };

#define TF_LITE_ENSURE_STATUS(call)               \
  do {                                            \
    const TfLiteStatus status = (call);           \
    if (status != kTfLiteOk) return status;       \
  } while (false)

struct TfLiteTensor {
  union {
    int8_t* int8;
  } data;
  size_t bytes;
};

#endif  // STAND_IN_COMMON_H_
