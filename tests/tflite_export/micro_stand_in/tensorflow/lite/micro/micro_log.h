#ifndef STAND_IN_MICRO_LOG_H_
#define STAND_IN_MICRO_LOG_H_

void MicroPrintf(const char* format, ...);

#endif  // STAND_IN_MICRO_LOG_H_
