# bash completion for conex
_conex() {
	local cur=${COMP_WORDS[COMP_CWORD]} verb= i
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		checkpoint | create | delete | events | exec | features | kill | list | pause | ps | restore | resume | run | spec | start | state | update) verb=${COMP_WORDS[i]}; break ;;
		esac
	done
	local words= ids=
	case $verb in
	'') words="checkpoint create delete events exec features kill list pause ps restore resume run spec start state update --debug --log --log-format --root --systemd-cgroup --rootless --criu --help --version" ;;
	checkpoint) words="--image-path --work-path --parent-path --leave-running --tcp-established --tcp-skip-in-flight --link-remap --ext-unix-sk --shell-job --lazy-pages --status-fd --page-server --file-locks --pre-dump --manage-cgroups-mode --empty-ns --auto-dedup" ids=1 ;;
	create) words="--bundle --console-socket --pidfd-socket --pid-file --no-pivot --no-new-keyring --preserve-fds" ;;
	delete) words="--force" ids=1 ;;
	events) words="--interval --stats" ids=1 ;;
	exec) words="--console-socket --pidfd-socket --cwd --env --tty --user --additional-gids --process --detach --pid-file --process-label --apparmor --no-new-privs --cap --preserve-fds --cgroup --ignore-paused --no-subreaper" ids=1 ;;
	features) words="" ;;
	kill) words="--all" ids=1 ;;
	list) words="--format --quiet" ;;
	pause) words="" ids=1 ;;
	ps) words="--format" ids=1 ;;
	restore) words="--console-socket --image-path --work-path --tcp-established --tcp-close --ext-unix-sk --shell-job --file-locks --manage-cgroups-mode --bundle --detach --pid-file --no-subreaper --no-pivot --no-new-keyring --empty-ns --auto-dedup --lazy-pages --lsm-profile --lsm-mount-context" ;;
	resume) words="" ids=1 ;;
	run) words="--bundle --console-socket --pidfd-socket --detach --keep --pid-file --no-subreaper --no-pivot --no-new-keyring --preserve-fds" ids=1 ;;
	spec) words="--bundle --rootless" ;;
	start) words="" ids=1 ;;
	state) words="" ids=1 ;;
	update) words="--resources --blkio-weight --cpu-period --cpu-quota --cpu-burst --cpu-share --cpu-rt-period --cpu-rt-runtime --cpuset-cpus --cpuset-mems --cpu-idle --kernel-memory --kernel-memory-tcp --memory --memory-reservation --memory-swap --pids-limit --l3-cache-schema --mem-bw-schema" ids=1 ;;
	esac
	[[ -z $ids || $cur == -* ]] || words=$(conex list -q 2>/dev/null)
	COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _conex conex
