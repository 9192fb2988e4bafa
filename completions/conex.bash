# Completion of conex for bash.

# Prints the container ids, below the root that the command line names.
_conex_ids() {
    "${words[0]/#\~/$HOME}" "${root[@]}" list -q 2>/dev/null
}

_conex() {
    local cur prev words=() cword=0
    local IFS=$' \t\n'
    # COMP_WORDS splits at "="; put `--flag=value` together again.
    local i word joined=
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if ((i > 1)) && [[ $word == = && ${words[${#words[@]} - 1]} == -* ]]; then
            words[${#words[@]} - 1]+==
            joined=1
        elif [[ $joined && ${words[${#words[@]} - 1]} == -*= ]]; then
            words[${#words[@]} - 1]+=$word
            joined=
        else
            words+=("$word")
            joined=
        fi
    done
    cword=$((${#words[@]} - 1))
    cur=${words[cword]}
    prev=${words[cword - 1]}

    local commands='checkpoint create delete doctor events exec features help kill lint list pause ps restore resume run seccomp setup spec start state top update wait why'
    local global='--debug --trace --log --log-format --root --systemd-cgroup --cgroup-manager --rootless --criu --help --version'
    local global_values=' --trace --log --log-format --root --rootless --criu '
    local command= args=0 root=() skip= flags= values=

    # Flags of each command; `values` are those that take one.
    _conex_table() {
        case $1 in
        checkpoint)
            flags='--image-path --work-path --parent-path --leave-running --tcp-established --tcp-skip-in-flight --link-remap --ext-unix-sk --shell-job --lazy-pages --status-fd --page-server --file-locks --pre-dump --manage-cgroups-mode --empty-ns --auto-dedup'
            values=' --image-path --work-path --parent-path --status-fd --page-server --manage-cgroups-mode --empty-ns '
            ;;
        create)
            flags='--bundle -b --config -f --console-socket --pidfd-socket --pid-file --no-pivot --no-new-keyring --preserve-fds --preserve-fd'
            values=' --bundle -b --config -f --console-socket --pidfd-socket --pid-file --preserve-fds --preserve-fd '
            ;;
        doctor) flags='--json' ;;
        lint) flags='--json --no-notes --json-schema' ;;
        delete) flags='--force -f' ;;
        seccomp)
            flags='--cap --json'
            values=' --cap '
            ;;
        top)
            flags='--own --count -n'
            values=' --count -n '
            ;;
        why) flags='--json' ;;
        events)
            flags='--interval --stats'
            values=' --interval '
            ;;
        exec)
            flags='--console-socket --pidfd-socket --cwd --env -e --tty -t --user -u --additional-gids -g --process -p --detach -d --pid-file --process-label --apparmor --no-new-privs --cap -c --preserve-fds --preserve-fd --cgroup --ignore-paused --no-subreaper'
            values=' --console-socket --pidfd-socket --cwd --env -e --user -u --additional-gids -g --process -p --pid-file --process-label --apparmor --cap -c --preserve-fds --preserve-fd --cgroup '
            ;;
        kill) flags='--all -a' ;;
        list)
            flags='--format -f --quiet -q --all -a --stats'
            values=' --format -f '
            ;;
        ps)
            flags='--format -f'
            values=' --format -f '
            ;;
        restore)
            flags='--console-socket --image-path --work-path --tcp-established --tcp-close --ext-unix-sk --shell-job --file-locks --manage-cgroups-mode --bundle -b --detach -d --pid-file --no-subreaper --no-pivot --no-new-keyring --empty-ns --auto-dedup --lazy-pages --lsm-profile --lsm-mount-context'
            values=' --console-socket --image-path --work-path --manage-cgroups-mode --bundle -b --pid-file --empty-ns --lsm-profile --lsm-mount-context '
            ;;
        run)
            flags='--bundle -b --config -f --console-socket --pidfd-socket --detach -d --keep --pid-file --no-subreaper --no-pivot --no-new-keyring --preserve-fds --preserve-fd --seccomp-log --rootfs --name --volume -v --env -e --memory -m --cpus --user -u --net --read-only --terminal -t'
            values=' --bundle -b --config -f --console-socket --pidfd-socket --pid-file --preserve-fds --preserve-fd --seccomp-log --rootfs --name --volume -v --env -e --memory -m --cpus --user -u --net '
            ;;
        setup)
            flags='--write --undo --config --shim --by-name'
            values=' --config '
            ;;
        spec)
            flags='--bundle -b --rootfs --rootless --terminal -t --of'
            values=' --bundle -b --rootfs --of '
            ;;
        update)
            flags='--resources -r --blkio-weight --cpus --cpu-period --cpu-quota --cpu-burst --cpu-share --cpu-rt-period --cpu-rt-runtime --cpuset-cpus --cpuset-mems --cpu-idle --kernel-memory --kernel-memory-tcp --memory --memory-reservation --memory-swap --pids-limit --l3-cache-schema --mem-bw-schema'
            values=" $flags "
            ;;
        esac
        flags+=' --help'
    }

    # What stands before the word to complete.
    for ((i = 1; i < cword; i++)); do
        word=${words[i]}
        if [[ $skip ]]; then
            [[ $skip == --root ]] && root=(--root "$word")
            skip=
            continue
        fi
        if [[ $word == -* && $word != - ]]; then
            # One dash and two are the same.
            [[ $word != --* && ${#word} -gt 2 ]] && word=-$word
            if [[ -z $command ]]; then
                [[ $word == --root=* ]] && root=(--root "${word#--root=}")
                [[ $global_values == *" $word "* ]] && skip=$word
            else
                [[ $values == *" $word "* ]] && skip=$word
            fi
            continue
        fi
        if [[ -z $command ]]; then
            command=$word
            _conex_table "$command"
        else
            ((args++))
        fi
    done
    unset -f _conex_table

    COMPREPLY=()
    local flag=$prev value=$cur
    if [[ -z $skip && $cur == -*=* ]]; then
        flag=${cur%%=*}
        value=${cur#*=}
        skip=$flag
    fi
    [[ $flag != --* && ${#flag} -gt 2 ]] && flag=-$flag
    if [[ $skip ]]; then
        case $flag in
        --root | --bundle | -b | --image-path | --work-path | --parent-path)
            mapfile -t COMPREPLY < <(compgen -d -- "$value")
            compopt -o filenames 2>/dev/null
            ;;
        --log | --criu | --console-socket | --pidfd-socket | --pid-file | --process | -p | --resources | -r)
            mapfile -t COMPREPLY < <(compgen -f -- "$value")
            compopt -o filenames 2>/dev/null
            ;;
        --log-format) mapfile -t COMPREPLY < <(compgen -W 'text json' -- "$value") ;;
        --format | -f) mapfile -t COMPREPLY < <(compgen -W 'table json' -- "$value") ;;
        --rootless) mapfile -t COMPREPLY < <(compgen -W 'true false auto' -- "$value") ;;
        --cpu-idle) mapfile -t COMPREPLY < <(compgen -W '0 1' -- "$value") ;;
        --manage-cgroups-mode) mapfile -t COMPREPLY < <(compgen -W 'soft full strict ignore' -- "$value") ;;
        esac
        return
    fi

    if [[ -z $command ]]; then
        if [[ $cur == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$global" -- "$cur")
        else
            mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur")
        fi
        return
    fi
    # Behind the container, the words of exec and ps belong to another program.
    if [[ ($command == exec || $command == ps) && $args -gt 0 ]]; then
        [[ $command == exec ]] && compopt -o default 2>/dev/null
        return
    fi
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
        return
    fi
    case $command in
    help) ((args == 0)) && mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur") ;;
    checkpoint | delete | events | exec | pause | ps | resume | start | state | update | wait | why)
        ((args == 0)) && mapfile -t COMPREPLY < <(compgen -W "$(_conex_ids)" -- "$cur")
        ;;
    kill)
        if ((args == 0)); then
            mapfile -t COMPREPLY < <(compgen -W "$(_conex_ids)" -- "$cur")
        elif ((args == 1)); then
            mapfile -t COMPREPLY < <(compgen -A signal -- "$cur")
        fi
        ;;
    run)
        if ((args == 0)); then
            mapfile -t COMPREPLY < <(compgen -d -S / -- "$cur")
            compopt -o nospace 2>/dev/null
        fi
        ;;
    esac
}

complete -F _conex conex
