"""Names that the top function of a project cannot have: what C and C++ reserve, and what their headers declare."""

from __future__ import annotations

import re

_NAMES = """
    a64l abort abs acos acosf acosh acoshf acoshl acosl alignas aligned_alloc alignof alloca and ap_int ap_uint arc4random
    arc4random_buf arc4random_uniform asctime asctime_r asin asinf asinh asinhf asinhl asinl asm at_quick_exit atan atan2
    atan2f atan2l atanf atanh atanhf atanhl atanl atexit atof atoi atol atoll auto bcmp bcopy bool break bsearch btowc
    bzero calloc case catch cbrt cbrtf cbrtl ceil ceilf ceill char class clearenv clearerr clock clock_getcpuclockid
    clock_getres clock_gettime clock_nanosleep clock_settime compl concept const constexpr continue copysign copysignf
    copysignl cos cosf cosh coshf coshl cosl ctermid ctime ctime_r decltype default delete difftime div do double dprintf
    drand48 drand48_r drem dremf dreml duplocale dysize ecvt ecvt_r else enum erand48 erand48_r erf erfc erfcf erfcl erff
    erfl errno exit exp exp2 exp2f exp2l expf expl explicit explicit_bzero expm1 expm1f expm1l export extern fabs fabsf
    fabsl false fclose fcvt fcvt_r fdim fdimf fdiml fdopen feof ferror fflush ffs ffsl ffsll fgetc fgetpos fgets fgetwc
    fgetws fileno finite finitef finitel float flockfile floor floorf floorl fma fmaf fmal fmax fmaxf fmaxl fmemopen fmin
    fminf fminl fmod fmodf fmodl fopen for fprintf fputc fputs fputwc fputws fread free freelocale freopen frexp frexpf
    frexpl friend fscanf fseek fseeko fsetpos ftell ftello ftrylockfile funlockfile fwide fwprintf fwrite fwscanf gamma
    gammaf gammal gcvt getc getchar getdelim getenv getline getloadavg getsubopt getw getwc getwchar gmtime gmtime_r goto
    gsignal hls hypot hypotf hypotl if ilogb ilogbf ilogbl index initstate initstate_r inline int isalnum isalpha isascii
    isblank iscntrl isdigit isgraph isinf isinff isinfl islower isnan isnanf isnanl isprint ispunct isspace isupper
    isxdigit j0 j0f j0l j1 j1f j1l jn jnf jnl jrand48 jrand48_r kill killpg l64a labs lcong48 lcong48_r ldexp ldexpf
    ldexpl ldiv lgamma lgamma_r lgammaf lgammaf_r lgammal lgammal_r llabs lldiv llrint llrintf llrintl llround llroundf
    llroundl localeconv localtime localtime_r log log10 log10f log10l log1p log1pf log1pl log2 log2f log2l logb logbf
    logbl logf logl long lrand48 lrand48_r lrint lrintf lrintl lround lroundf lroundl main malloc mblen mbrlen mbrtowc
    mbsinit mbsnrtowcs mbsrtowcs mbstowcs mbtowc memccpy memchr memcmp memcpy memmove memset mkdtemp mkstemp mkstemps
    mktemp mktime modf modff modfl mrand48 mrand48_r mutable namespace nan nanf nanl nanosleep nearbyint nearbyintf
    nearbyintl new newlocale nextafter nextafterf nextafterl nexttoward nexttowardf nexttowardl noexcept not nrand48
    nrand48_r nullptr on_exit open_memstream open_wmemstream operator or pclose perror popen posix_memalign pow powf powl
    printf private protected pselect psiginfo psignal pthread_kill pthread_sigmask public putc putchar putenv puts putw
    putwc putwchar qecvt qecvt_r qfcvt qfcvt_r qgcvt qsort quick_exit raise rand rand_r random random_r realloc
    reallocarray realpath register remainder remainderf remainderl remove remquo remquof remquol rename renameat requires
    return rewind rindex rint rintf rintl round roundf roundl rpmatch scalb scalbf scalbl scalbln scalblnf scalblnl scalbn
    scalbnf scalbnl scanf seed48 seed48_r select setbuf setbuffer setenv setlinebuf setlocale setstate setstate_r setvbuf
    short sigaction sigaddset sigaltstack sigblock sigdelset sigemptyset sigfillset siggetmask siginterrupt sigismember
    signal signed significand significandf significandl sigpending sigprocmask sigqueue sigreturn sigsetmask sigstack
    sigsuspend sigtimedwait sigwait sigwaitinfo sin sinf sinh sinhf sinhl sinl sizeof snprintf sprintf sqrt sqrtf sqrtl
    srand srand48 srand48_r srandom srandom_r sscanf ssignal static std stderr stdin stdout stpcpy stpncpy strcasecmp
    strcat strchr strcmp strcoll strcpy strcspn strdup strerror strerror_r strftime strlen strncasecmp strncat strncmp
    strncpy strndup strnlen strpbrk strrchr strsep strsignal strspn strstr strtod strtof strtok strtok_r strtol strtold
    strtoll strtoq strtoul strtoull strtouq struct strxfrm switch swprintf swscanf system tan tanf tanh tanhf tanhl tanl
    template tempnam tgamma tgammaf tgammal this throw time timegm timelocal timer_create timer_delete timer_getoverrun
    timer_gettime timer_settime timespec_get tmpfile tmpnam tmpnam_r toascii tolower toupper true trunc truncf truncl try
    typedef typeid typename tzset ungetc ungetwc union unsetenv unsigned uselocale using valloc vdprintf vfprintf vfscanf
    vfwprintf vfwscanf virtual void volatile vprintf vscanf vsnprintf vsprintf vsscanf vswprintf vswscanf vwprintf vwscanf
    wcpcpy wcpncpy wcrtomb wcscasecmp wcscat wcschr wcscmp wcscoll wcscpy wcscspn wcsdup wcsftime wcslen wcsncasecmp
    wcsncat wcsncmp wcsncpy wcsnlen wcsnrtombs wcspbrk wcsrchr wcsrtombs wcsspn wcsstr wcstod wcstof wcstok wcstol wcstold
    wcstoll wcstombs wcstoul wcstoull wcsxfrm wctob wctomb while wmemchr wmemcmp wmemcpy wmemmove wmemset wprintf wscanf
    xor y0 y0f y0l y1 y1f y1l yn ynf ynl
"""
_TAKEN = frozenset(_NAMES.split())


# Names of ports, types and processes that generated code may have itself, and the functions of its streams.
_GENERATED = re.compile(r"(in|out|load|store)_.*|.*_t|[a-z]+_[0-9]+(_body)?|weights|read|write")


def kernel_name(prefix: str) -> str:
    """The name of a project and its top function: the prefix, unless that means something in the sources already."""
    return f"{prefix}_kernel" if prefix in _TAKEN or _GENERATED.fullmatch(prefix) else prefix
