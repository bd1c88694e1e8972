# Completion of ipcctl for bash 4 or later: ipcctl itself finds the candidates.
_ipcctl() {
    # Not COMP_WORDS: bash splits words at characters that subjects and endpoints contain, such as
    # @, : and =. The second argument is the part of the word that bash replaces.
    mapfile -t COMPREPLY < <("${1/#\~/$HOME}" complete bash -- "${COMP_LINE:0:COMP_POINT}" "$2" 2> /dev/null)
    # The rest of a subject or an endpoint may follow.
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[.:/=@] ]]; then
        compopt -o nospace 2> /dev/null
    fi
}
complete -o bashdefault -o default -F _ipcctl ipcctl
