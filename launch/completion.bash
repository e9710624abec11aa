# Tab completion in bash for `python -m homae_jax.COMMAND --FLAG`:
#   source launch/completion.bash
# Commands, flags, and after --config. every key of configs/common.py.
_homae_jax() {
  local word="${COMP_WORDS[COMP_CWORD]}" module="" i
  local commands="train evaluate predict synthesize report export doctor benchmark
    convert score_ho3d"
  for ((i = 1; i < COMP_CWORD; i++)); do
    [[ ${COMP_WORDS[i]} == homae_jax.* ]] && module="${COMP_WORDS[i]}"
  done
  COMPREPLY=()
  if [[ -z $module && ${COMP_WORDS[COMP_CWORD - 1]} == -m ]]; then
    mapfile -t COMPREPLY < <(compgen -W "${commands//[[:space:]]/ }" -P homae_jax. -- "${word#homae_jax.}")
  elif [[ -n $module && $word == --config.* ]]; then
    local keys
    keys="$("${COMP_WORDS[0]}" -c 'from homae_jax.config_flags import key_names
print(*(f"--config.{key}=" for key in key_names()))' 2>/dev/null)"
    mapfile -t COMPREPLY < <(compgen -W "$keys" -- "$word")
    compopt -o nospace 2>/dev/null
  elif [[ -n $module && $word == --* ]]; then
    local flags
    flags="$("${COMP_WORDS[0]}" -m "$module" --help 2>/dev/null |
      sed -nE 's/^  (--[a-zA-Z0-9_]+=?).*/\1/p')"
    mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$word")
    compopt -o nospace 2>/dev/null
  fi
}
complete -o default -F _homae_jax python python3
