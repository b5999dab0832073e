"""What microcontrollers need: a plan of their memory, and C++ sources around a file."""
