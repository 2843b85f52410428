"""How shells are asked for completions, and what they are answered: click's, mended.

click's fish script cuts descriptions at their first comma; in all three shells it offers nothing for the second part of
`--option=VALUE`, or replaces the option by the value. A path that follows `NAME=` is completed, too.
"""

from __future__ import annotations

from typing import Final

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
)

SHELLS: Final = ("bash", "zsh", "fish")


class Bash(BashComplete):
    """bash, in which `=` is a word of its own, and the last word alone is replaced."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the last one, and that."""
        given, incomplete = super().get_completion_args()
        words: list[str] = []
        for word in given:
            joins = words and (word == "=" or words[-1].endswith("="))
            words = [*words[:-1], words[-1] + word] if joins else [*words, word]
        if words and words[-1].endswith("="):
            words[-1] = words[-1].removesuffix("=")
            if not words[-1].startswith("-"):
                words.pop()
        return words, incomplete


class Zsh(ZshComplete):
    """zsh, with `compinit`.

    `compset -P PATTERN` leaves what matches the pattern on the command line, and has the rest completed.
    """

    source_template = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a plain described lines
    local type key text before
    (( ! $+commands[%(prog_name)s] )) && return 1

    lines=("${(@f)$(env COMP_WORDS="${(pj: :)words}" COMP_CWORD=$((CURRENT-1)) %(complete_var)s=zsh_complete %(prog_name)s)}")
    [[ $PREFIX == -*=* ]] && before="${PREFIX%%%%=*}="

    for type key text in $lines; do
        if [[ $type == plain && $text == _ ]]; then
            plain+=("$before$key")
        elif [[ $type == plain ]]; then
            described+=("$key:$text")
        elif [[ $type == dir ]]; then
            compset -P "$before"; _path_files -/
        elif [[ $type == file ]]; then
            compset -P "$before"; _path_files -f || { compset -P 1 '*=' && _path_files -f }
        fi
    done

    if (( $#described )); then _describe -V unsorted described -U; fi
    if (( $#plain )); then compadd -U -V unsorted -a plain; fi
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"  # autoloaded from fpath
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

    def format_completion(self, item: CompletionItem) -> str:
        """Three lines."""
        help_ = _one_line(item.help) or "_"
        value = str(item.value)
        return "\n".join((item.type, value if help_ == "_" else value.replace(":", "\\:"), help_))


class Fish(FishComplete):
    """fish, which replaces the whole word: what stands before `=` is offered with each completion."""

    source_template = """\
function %(complete_func)s
    set -l word (commandline -t)
    set -l words (commandline -cp | string join ' ')
    for line in (env %(complete_var)s=fish_complete COMP_WORDS="$words" COMP_CWORD="$word" %(prog_name)s)
        set -l parts (string split -m 1 , -- $line)
        set -l before ''
        if string match -qr -- '^-[^=]*=' $word
            set before (string replace -r -- '=.*' '=' $word)
        else if test $parts[1] = file; and not __fish_complete_path $parts[2] | string length -q
            set before (string match -r -- '^[^=]*=' $word)
            set parts[2] (string replace -r -- '^[^=]*=' '' $parts[2])
        end
        switch $parts[1]
            case dir
                printf "$before%%s\\n" (__fish_complete_directories $parts[2])
            case file
                printf "$before%%s\\n" (__fish_complete_path $parts[2])
            case plain
                printf "$before%%s\\n" $parts[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""

    def format_completion(self, item: CompletionItem) -> str:
        """A line: the type, and behind the first comma the value, a tab and its description."""
        return f"{item.type},{item.value}" + (f"\t{_one_line(item.help)}" if item.help else "")


def script(shell: str, group: object, command: str, variable: str) -> str:
    """What a shell evaluates to complete a command.

    Args:
        shell: one of `SHELLS`.
        group: click's, of the command.
        command: its name.
        variable: environment variable that is set while a shell asks.
    """
    register()
    kind = get_completion_class(shell)
    assert kind is not None, "click supports these shells"
    return kind(group, {}, command, variable).source()  # type: ignore[arg-type]


def register() -> None:
    """Have click answer shells so."""
    add_completion_class(Bash)
    add_completion_class(Zsh)
    add_completion_class(Fish)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
