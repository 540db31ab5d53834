"""Write the completion scripts for bash, zsh and fish. The scripts start no process when Tab is pressed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence

from sfmoe_dg.cli.completion_words import Command, Flag, Slot

PROGRAM = "sfmoe-dg"

# The part that bash and zsh share. It sets $command to the sub-command before the cursor, $flag to the last flag if the
# word at the cursor may be its value, and $choices and $paths to the completions of that word.
_WALK = """
    local command="" flag="" choices="" paths="" word values=0
    for word in "${before[@]}"; do
        case "$word" in
            "=") ;;
            -*) flag="$word" values=0 ;;
            *)  if [[ -z "$command" ]]; then command="$word"; else values=$((values + 1)); fi ;;
        esac
    done
    case "$command $flag" in
        %(many)s) ;;
        *) if ((values > 0)); then flag=""; fi ;;
    esac
    case "$command" in
        "") choices="%(commands)s" ;;
%(commands_cases)s
    esac
    case "$command $flag" in
%(flag_cases)s
    esac
    if [[ "$current" == -* ]]; then
        paths=""
        case "$command" in
            "") choices="-h --help --version" ;;
%(flags)s
        esac
    fi
"""

_BASH = """# bash completion of sfmoe-dg: eval "$(sfmoe-dg completion bash)"
_sfmoe_dg() {
    local current="${COMP_WORDS[COMP_CWORD]}" before=("${COMP_WORDS[@]:1:COMP_CWORD-1}")
    if [[ "$current" == "=" ]]; then current=""; fi
%(walk)s
    local IFS=$' \\t\\n'
    COMPREPLY=($(compgen -W "$choices" -- "$current"))
    local IFS=$'\\n'
    if [[ "$paths" == files ]]; then COMPREPLY+=($(compgen -f -- "$current")); compopt -o filenames 2>/dev/null; fi
    if [[ "$paths" == folders ]]; then COMPREPLY+=($(compgen -d -- "$current")); compopt -o filenames 2>/dev/null; fi
}
complete -F _sfmoe_dg sfmoe-dg
"""

_ZSH = """#compdef sfmoe-dg
# zsh completion of sfmoe-dg: eval "$(sfmoe-dg completion zsh)", behind compinit
_sfmoe_dg() {
    local current="$PREFIX" before=("${(@)words[2,CURRENT-1]}")
    _sfmoe_dg_walk
}
_sfmoe_dg_walk() {
%(walk)s
    compadd -- ${=choices}
    if [[ "$paths" == files ]]; then _files; fi
    if [[ "$paths" == folders ]]; then _files -/; fi
}
compdef _sfmoe_dg sfmoe-dg
"""


def bash(commands: Sequence[Command]) -> str:
    return _BASH % {"walk": _walk(commands)}


def zsh(commands: Sequence[Command]) -> str:
    return _ZSH % {"walk": _walk(commands)}


def _walk(commands: Sequence[Command]) -> str:
    taking = [(c, f, f.slot) for c in commands for f in c.flags if f.slot is not None]
    return _WALK.strip("\n") % {
        "many": " | ".join(_patterns(c, f) for c, f, _ in taking if f.many),
        "commands": " ".join(command.name for command in commands),
        "commands_cases": "\n".join(f"        {c.name}) {_assign(c.slot)} ;;" for c in commands),
        "flag_cases": "\n".join(f"        {_patterns(c, f)}) {_assign(slot)} ;;" for c, f, slot in taking),
        "flags": "\n".join(
            f"            {c.name}) choices={shlex.quote(' '.join(n for f in c.flags for n in f.names))} ;;"
            for c in commands
        ),
    }


def _patterns(command: Command, flag: Flag) -> str:
    return " | ".join(f'"{command.name} {name}"' for name in flag.names)


def _assign(slot: Slot) -> str:
    return f"choices={shlex.quote(' '.join(slot.words))} paths={slot.paths or chr(39) * 2}"


def fish(commands: Sequence[Command]) -> str:
    return "\n".join(_fish_lines(commands)) + "\n"


def _fish_lines(commands: Sequence[Command]) -> Iterator[str]:
    yield "# fish completion of sfmoe-dg: sfmoe-dg completion fish > ~/.config/fish/completions/sfmoe-dg.fish"
    yield f"complete -c {PROGRAM} -f"
    none = "__fish_use_subcommand"
    yield f"complete -c {PROGRAM} -n {none} -l help -s h -d 'show the commands'"
    yield f"complete -c {PROGRAM} -n {none} -l version -d 'show the version'"
    for command in commands:
        yield f"complete -c {PROGRAM} -n {none} -a {command.name} -d {_fish_quote(command.help)}"
    for command in commands:
        here = f"complete -c {PROGRAM} -n '__fish_seen_subcommand_from {command.name}'"
        if command.slot != Slot():
            yield f"{here}{_fish_values(command.slot, required=False)}"
        for flag in command.flags:
            names = "".join(f" -l {n[2:]}" if n.startswith("--") else f" -s {n[1:]}" for n in flag.names)
            value = "" if flag.slot is None else _fish_values(flag.slot, required=True)
            yield f"{here}{names}{value} -d {_fish_quote(flag.help)}"


def _fish_values(slot: Slot, required: bool) -> str:
    """fish's options for a value: ``-x`` offers only these words, ``-r -F`` offers files."""
    if slot.paths == "folders":
        return f"{' -x' if required else ''} -a '(__fish_complete_directories)'"
    if slot.paths == "files":
        return " -r -F" if required else " -F"
    words = f" -a {_fish_quote(' '.join(slot.words))}" if slot.words else ""
    return f"{' -x' if required else ''}{words}"


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SCRIPTS: dict[str, Callable[[Sequence[Command]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
