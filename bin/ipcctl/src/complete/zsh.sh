#compdef ipcctl
# Completion of ipcctl for zsh: ipcctl itself finds the candidates. Each is a line, and a tab is before its description.
_ipcctl() {
    local -a lines open done open_texts done_texts
    local line value text
    lines=("${(@f)$(${~words[1]} complete zsh -- "${(@Q)words[1,CURRENT]}" 2> /dev/null)}")
    for line in $lines; do
        value=${line%%$'\t'*}
        text=$value
        [[ $line == *$'\t'* ]] && text="$value  -- ${line#*$'\t'}"
        # The rest of a subject or an endpoint may follow: no space.
        if [[ $value == *[.:/=@] ]]; then
            open+=("$value") open_texts+=("$text")
        else
            done+=("$value") done_texts+=("$text")
        fi
    done
    if (( $#open + $#done == 0 )); then
        _files
        return
    fi
    (( $#open )) && compadd -l -S '' -d open_texts -a open
    (( $#done )) && compadd -l -d done_texts -a done
    return 0
}
# The file is a function of its own in a directory of $fpath, and commands where it is sourced.
if [[ $funcstack[1] == _ipcctl ]]; then
    _ipcctl "$@"
else
    compdef _ipcctl ipcctl
fi
