# Completion of ipcctl for fish: ipcctl itself finds the candidates, with files where it has none.
complete --command ipcctl --no-files --keep-order --arguments '(__ipcctl_candidates)'
function __ipcctl_candidates
    set --local words (commandline --current-process --tokenize --cut-at-cursor)
    set --local word (commandline --current-token --cut-at-cursor)
    set --local found (command ipcctl complete fish -- $words "$word" 2> /dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path "$word"
    end
end
