"""What ``*`` means for a step of a batch run: the usual way to clean, build and execute in a language.

Shell commands, since what there is to build is only known inside. Pure.
"""

from __future__ import annotations

_MAKEFILE = "[ -f Makefile ] || [ -f makefile ] || [ -f GNUmakefile ]"
_NOTHING = "echo 'There is nothing to execute: {what}' >&2; exit 127"

#: Language to the compiler and what it is given.
_COMPILED = {
    "c": ("gcc", "*.c", "-lm -pthread"),
    "c++": ("g++", "*.cpp *.cc *.cxx *.C", "-pthread"),
    "cpp": ("g++", "*.cpp *.cc *.cxx *.C", "-pthread"),
}
#: Language to its interpreter and the suffix of its scripts.
_INTERPRETED = {
    "python": ("python", "py"),
    "bash": ("bash", "sh"),
    "r": ("Rscript", "R"),
    "julia": ("julia", "jl"),
    "javascript": ("node", "js"),
    "typescript": ("deno run", "ts"),
    "ruby": ("ruby", "rb"),
    "perl": ("perl", "pl"),
    "php": ("php", "php"),
    "lua": ("lua", "lua"),
    "go": ("go run", "go"),
    "octave": ("octave", "m"),
}


def clean_recipe(language: str) -> str:
    return f"if {_MAKEFILE}; then make clean; fi"


def build_recipe(language: str) -> str:
    """Make decides where there is a makefile; what needs no building is left alone."""
    otherwise = ":"
    if language in _COMPILED:
        compiler, patterns, options = _COMPILED[language]
        otherwise = (
            f'set --; for f in {patterns}; do [ -f "$f" ] && set -- "$@" "$f"; done; '
            f"""if [ $# = 0 ]; then echo 'There is nothing to build: no {patterns}' >&2; exit 127; fi; """
            f'{compiler} "$@" -o main {options}'
        )
    elif language == "python":
        otherwise = "if [ -f setup.py ]; then python setup.py build_ext --inplace; fi"
    return f"if {_MAKEFILE}; then make; else {otherwise}; fi"


def exec_recipe(language: str) -> str:
    """``main``, or the only script there is."""
    if language not in _INTERPRETED:
        return f"if [ -x main ]; then ./main; elif [ -x a.out ]; then ./a.out; else {_absent('no main')}; fi"
    interpreter, suffix = _INTERPRETED[language]
    return (
        f"set -- *.{suffix}; if [ -f main.{suffix} ]; then {interpreter} main.{suffix}; "
        f'elif [ $# = 1 ] && [ -f "$1" ]; then {interpreter} "$1"; '
        f"else {_absent(f'no main.{suffix}')}; fi"
    )


def _absent(what: str) -> str:
    return _NOTHING.format(what=what)
