# shellcheck shell=bash
# Completion of openreward for bash: verbs, words and options as the program's own help has them, so that none is forgotten,
# and the names of environments, sandboxes, images and runs as the server tells them; where none answers, nothing is said.

_openreward_verbs() {
	openreward help 2>/dev/null | sed -n 's/^  \([a-z][a-z-]*\)  *[^ ].*/\1/p'
}

# Words that stand behind `openreward VERB` in how it is used: ls, show, cancel.
_openreward_words() {
	openreward "$1" --help 2>/dev/null | grep -E '^(usage: |       )openreward ' |
		sed -n "s/^.*openreward $1 \([a-z][a-z |]*\).*/\1/p" | tr ' |' '\n' | grep . | sort -u
}

_openreward_options() {
	{ echo --help; openreward "$1" --help 2>/dev/null; } | grep -oE -- '(^|[[ ,(`])--[a-z][a-z-]*' |
		grep -oE -- '--[a-z-]+' | sort -u
}

# What the server knows: the first column of a list, within two seconds. $1 is the --data of the command line, if any.
_openreward_ask() {
	local data=$1
	shift
	timeout 2 openreward "$@" ${data:+--data "$data"} 2>/dev/null </dev/null | awk '$1 != "ID" && $1 != "NAME" { print $1 }'
}

_openreward_names() { # DATA VERB WORD
	case $2:$3 in
	rollback:* | logs:* | deployment:ls | env:show | env:set | env:unset | env:rm) _openreward_ask "$1" env ls ;;
	sandbox:inspect | sandbox:rm | sandbox:exec | sandbox:shell | sandbox:logs) _openreward_ask "$1" sandbox ls ;;
	sandbox:run | image:rm) _openreward_ask "$1" image ls ;;
	rollouts:* | export:*) _openreward_ask "$1" runs ;;
	key:revoke) _openreward_ask "$1" key ls ;;
	user:show | user:disable) _openreward_ask "$1" user ls ;;
	org:members | org:add | org:remove) _openreward_ask "$1" org ls ;;
	esac
}

# Words of the line that are neither options nor values of those before them: VERB, WORD.
_openreward() {
	local cur=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
	local verb=${COMP_WORDS[1]} word=${COMP_WORDS[2]} data='' words='' i
	COMPREPLY=()
	for ((i = 2; i < COMP_CWORD; i++)); do
		[ "${COMP_WORDS[i]}" != --data ] || data=${COMP_WORDS[i + 1]}
		[ "${COMP_WORDS[i]}" != -- ] || return 0 # what stands there is another program's
	done
	if [ "$COMP_CWORD" = 1 ]; then
		words=$(_openreward_verbs)
	elif [ "$previous" = --data ] || { [ "$verb" = deploy ] && [[ $cur != -* ]]; }; then
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return
	elif [[ $previous == --config || $previous == --output || ($verb =~ ^(backup|restore)$ && $cur != -*) ]]; then
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
	elif [[ $cur == -* ]]; then
		words=$(_openreward_options "$verb")
	else
		[ "$COMP_CWORD" != 2 ] || words=$(_openreward_words "$verb")
		[ -n "$words" ] || words=$(_openreward_names "$data" "$verb" "$word")
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -F _openreward openreward
