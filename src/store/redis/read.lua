-- The log's state and roster.
local state = log_state()
return state and roster(state) or no_run_id
