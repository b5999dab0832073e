"""Names that no C++ namespace can have: words of the language, and of headers that are included."""

from __future__ import annotations

_WORDS = """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t
    char8_t class co_await co_return co_yield compl concept const const_cast consteval constexpr
    constinit continue contract_assert decltype default delete do double dynamic_cast else enum
    explicit export extern false float for friend goto if inline int long mutable namespace new
    noexcept not not_eq nullptr operator or or_eq private protected public register
    reinterpret_cast requires return short signed sizeof static static_assert static_cast struct
    switch template this thread_local throw true try typedef typeid typename union unsigned using
    virtual void volatile while xor xor_eq
"""
_OF_COMPILERS = "i386 linux unix typeof near far huge interrupt avr arm vax sun mips m68k hpux sgi"
_OF_THESE_SOURCES = "arena main std tflite"
_OF_C = """
    abort abs access acos acosh aligned_alloc asctime asin asinh assert atan atan2 atanh atexit
    atof atoi atol atoll bcmp bcopy bsearch bzero calloc cbrt ceil clearerr clock clock_gettime
    close connect copysign cos cosh ctime difftime div drem dup environ erf erfc errno exit exp
    exp10 exp2 expm1 fabs fclose fdim feof ferror fflush ffs fgetc fgetpos fgets finite floor fma
    fmax fmin fmod fopen fork fprintf fputc fputs fread free freopen frexp fscanf fseek fsetpos
    ftell fwrite gamma getc getchar getenv gets gmtime hypot ilogb index isalnum isalpha isatty
    iscntrl isdigit isfinite isgraph isinf islower isnan isprint ispunct isspace isupper j0 j1 jn
    kill labs ldexp ldiv lgamma link listen llabs lldiv llrint llround localtime log log10 log1p
    log2 logb longjmp lrint lround lseek malloc mblen memchr memcmp memcpy memmove memset mktime
    modf nan nanosleep nearbyint nextafter nexttoward nice open pause perror pipe pow printf putc
    putchar puts qsort raise rand random read realloc recv remainder remove remquo rename rewind
    rindex rint round scalb scalbln scalbn scanf select send setjmp setbuf setenv setlocale
    setvbuf signal significand signbit sin sincos sinh sleep snprintf socket sprintf sqrt srand
    srandom sscanf stat stderr stdin stdout strcat strchr strcmp strcoll strcpy strcspn strdup
    strerror strftime strlen strncat strncmp strncpy strpbrk strrchr strspn strstr strtod strtof
    strtok strtol strtoll strtold strtoul strtoull strxfrm swab sync system tan tanh tgamma time
    timezone tm tmpfile tmpnam tolower toupper trunc tzset ungetc unlink usleep vfork vfprintf
    vprintf vsnprintf vsprintf wait write y0 y1 yn
"""
TAKEN_WORDS = frozenset(f"{_WORDS} {_OF_COMPILERS} {_OF_THESE_SOURCES} {_OF_C}".split())


def is_taken(name: str) -> bool:
    """Whether a namespace cannot have this name. Types of C end in `_t`.

    >>> [is_taken(name) for name in ("static_cast", "size_t", "linux", "keyword_net")]
    [True, True, True, False]
    """
    return name in TAKEN_WORDS or name.endswith("_t") or "__" in name
