-- The log's state: { epoch, secret, end, floor }.
return log_state() or no_run_id
