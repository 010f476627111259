"""The fault matrix: what may go wrong, and the tests that show what happens then, or why none can on one machine.

A test is named as pytest names it, without parameters; tests/house/test_faults.py sees that each one exists.
"""

from typing import Final, NamedTuple


class Fault(NamedTuple):
    """Something that goes wrong: where it is shown, and what of it is not, with the reason."""

    what: str
    shown: tuple[str, ...] = ()
    not_shown: str = ""


CONSUMER: Final = "tests/acceptance/test_consumer.py"
WORKERS: Final = "tests/acceptance/test_workers.py"
TAKEOVER: Final = "tests/acceptance/test_takeover.py"
SIGNALS: Final = "tests/acceptance/test_signals.py"
OUTAGE: Final = "tests/acceptance/test_outage.py"
MEMORY: Final = "tests/acceptance/test_memory_full.py"
BROKER: Final = "tests/contract/test_broker.py"
BROKER_REDIS: Final = "tests/contract/test_broker_redis.py"
MEMBERS: Final = "tests/contract/test_membership.py"
MEMBERS_REDIS: Final = "tests/contract/test_membership_redis.py"
LINK: Final = "tests/contract/test_link.py"
COMMIT: Final = "tests/contract/test_commit.py"
HTTP: Final = "tests/contract/test_replayer_http.py"
REFUSALS: Final = "tests/contract/test_refusals.py"
CHAOS: Final = "tests/chaos/test_chaos.py"
LIVENESS: Final = "tests/unit/test_liveness.py"
LOST: Final = "tests/fault/test_lost_replies.py"
KILLS: Final = "tests/fault/test_outbox_kills.py"

FAULTS: Final = (
    # Consumers.
    Fault(
        "kill -9 of a consumer, its name comes back",
        (
            f"{CONSUMER}::TestProcess::test_killed_in_a_task_and_started_again_it_runs_the_task_again_once",
            f"{CONSUMER}::TestProcess::test_what_runs_is_not_given_out_again_and_what_ran_at_a_kill_goes_first",
            f"{TAKEOVER}::TestTakeOver::test_its_own_name_takes_over_without_waiting_for_any_lease",
            f"{CHAOS}::test_nothing_is_lost_and_nothing_runs_that_was_not_committed",
        ),
    ),
    Fault(
        "kill -9 of a consumer that is gone for good",
        (
            f"{CONSUMER}::TestProcess::test_what_a_dead_consumer_held_is_taken_over_by_another_name",
            f"{TAKEOVER}::TestTakeOver::test_two_survivors_share_what_a_dead_one_held_in_several_queues",
            f"{MEMBERS}::TestReclaiming::test_of_many_who_find_it_dead_exactly_one_takes_over",
        ),
    ),
    Fault(
        "a consumer frozen for longer than its lease, then thawed",
        (
            f"{CHAOS}::test_a_consumer_that_was_paused_changes_and_starts_nothing",
            f"{MEMBERS}::TestFenced::test_its_calls_change_nothing",
            "tests/contract/test_doors_delivery.py::test_a_consumer_that_was_taken_over_starts_nothing",
        ),
    ),
    Fault(
        "two consumers of one name",
        (
            f"{CONSUMER}::TestProcess::test_a_second_of_its_name_is_refused_while_the_first_lives",
            f"{CONSUMER}::TestProcess::test_a_frozen_first_is_taken_over_and_fenced",
            f"{MEMBERS}::TestMembership::test_one_elsewhere_that_beats_keeps_its_name",
            f"{MEMBERS_REDIS}::TestRivals::test_of_two_who_start_under_one_name_one_has_all_queues",
            f"{MEMBERS}::TestNames::test_of_many_who_want_a_dead_ones_name_exactly_one_gets_it",
            "tests/unit/test_identity.py::TestGone::test_elsewhere_it_cannot_be_told",
        ),
    ),
    Fault(
        "a signal to stop, once and twice",
        (
            f"{SIGNALS}::test_the_first_lets_what_runs_end_and_the_second_gives_it_back_unspent",
            f"{CONSUMER}::TestStopping::test_what_does_not_end_is_given_back_in_order_and_has_spent_nothing",
        ),
    ),
    Fault(
        "a view that keeps the event loop busy for twice the lease",
        (
            f"{TAKEOVER}::TestInProcess::test_a_busy_loop_is_not_taken_for_a_death",
            f"{LIVENESS}::TestHeart::test_a_loop_that_hangs_is_given_up_and_taken_back",
        ),
    ),
    Fault(
        "a task that kills its consumer",
        (
            f"{TAKEOVER}::TestInProcess::test_a_task_that_kills_its_consumer_runs_alone_and_then_fails",
            f"{TAKEOVER}::TestInProcess::test_it_is_found_out_also_where_nobody_notes_starts",
            f"{TAKEOVER}::test_over_http_too_the_killer_runs_alone_and_its_neighbours_survive",
        ),
        "that it is the kernel, for want of memory, who kills: it is the same signal",
    ),
    Fault(
        "kill -9 of one of several workers, and of the process above them",
        (
            f"{WORKERS}::test_a_worker_that_dies_is_started_again_and_all_die_with_the_process_above",
            f"{WORKERS}::test_what_would_be_wrong_again_ends_them_all_with_its_code",
        ),
    ),
    Fault(
        "the event loop of a service hangs",
        (
            "tests/unit/test_notify.py::test_a_loop_that_is_blocked_feeds_no_watchdog",
            f"{WORKERS}::test_one_that_is_silent_starves_the_watchdog_of_all",
        ),
    ),
    # Producers.
    Fault(
        "kill -9 of a producer around the commit of its database",
        (
            f"{KILLS}::test_with_a_vote_a_producer_that_dies_leaves_its_tasks_in_doubt_at_worst",
            f"{KILLS}::test_with_an_outbox_nothing_is_lost_and_nothing_runs_that_was_not_committed",
        ),
    ),
    Fault(
        "kill -9 of a relay between push and removal",
        (
            f"{KILLS}::test_with_an_outbox_nothing_is_lost_and_nothing_runs_that_was_not_committed",
            "tests/contract/test_outbox.py::test_a_task_that_has_completed_meanwhile_does_not_run_again",
        ),
    ),
    Fault(
        "the database's answer to a commit is lost",
        ("tests/contract/test_sqlalchemy.py::test_a_commit_whose_answer_is_lost_leaves_the_task_in_doubt",),
    ),
    # Lines and callers.
    Fault(
        "a reply lost after each script",
        (
            f"{LOST}::test_in_a_consumers_life",
            f"{LOST}::test_in_a_commit",
            f"{LOST}::test_in_an_abort",
            f"{LOST}::test_as_a_delivery_begins",
            f"{LOST}::test_as_what_a_dead_one_held_is_given_back",
            f"{LOST}::test_as_an_operator_works",
            f"{COMMIT}::test_whichever_call_fails_what_is_said_is_true",
            "tests/model/test_model.py::test_a_server_does_what_the_model_does",
        ),
    ),
    Fault(
        "a caller cancelled in the midst of a call",
        (
            f"{LINK}::TestCallersThatGo::test_ten_thousand_random_cancellations_strand_nothing",
            f"{LINK}::TestCallersThatGo::test_nobody_gets_the_reply_of_another",
            f"{COMMIT}::test_a_cancelled_commit_ends_first_and_then_tells_the_truth",
        ),
    ),
    Fault(
        "a line open at one end only",
        (
            f"{LINK}::TestLinesThatBreak::test_a_line_that_is_open_at_this_end_only_is_dropped",
            f"{MEMBERS_REDIS}::test_a_line_that_is_open_at_this_end_only_is_given_up_within_ten_seconds",
            f"{MEMBERS_REDIS}::TestBeating::test_a_beat_without_an_answer_is_told_and_the_next_goes_another_way",
            f"{BROKER_REDIS}::TestHints::test_silence_is_no_dead_line",
        ),
    ),
    Fault(
        "the subscription alone dies",
        (
            f"{BROKER_REDIS}::TestHints::test_hints_end_with_their_connection",
            f"{CONSUMER}::TestWaking::test_a_subscription_that_dies_is_made_anew",
            f"{CONSUMER}::TestWaking::test_the_poll_alone_starts_a_task",
        ),
    ),
    # The store.
    Fault(
        "kill -9 of the store, then a start on its file",
        (
            f"{LINK}::TestRedisInTrouble::test_killed_again_and_again_it_keeps_what_it_has_confirmed",
            f"{OUTAGE}::TestStore::test_killed_and_started_again_it_has_lost_nothing_and_nothing_has_run_twice",
            f"{CONSUMER}::TestBrokerTrouble::test_a_restart_in_the_middle_loses_and_repeats_nothing",
            f"{CHAOS}::test_nothing_is_lost_and_nothing_runs_that_was_not_committed",
        ),
    ),
    Fault(
        "a power cut",
        ("tests/fault/test_truncated_file.py::test_what_is_left_obeys_all_rules",),
        "how much is lost: a machine cannot cut its own power, and to lose what was not synced needs dm-flakey",
    ),
    Fault(
        "a file that breaks off anywhere", ("tests/fault/test_truncated_file.py::test_what_is_left_obeys_all_rules",)
    ),
    Fault(
        "a store that comes back empty",
        (
            f"{CONSUMER}::TestBrokerTrouble::test_an_emptied_broker_is_claimed_again",
            f"{MEMBERS}::TestMembership::test_an_old_lease_that_is_refused_says_nothing_of_the_new_one",
        ),
    ),
    Fault(
        "a store that loads, is busy with a script, or paused",
        (
            f"{REFUSALS}::TestWaitedOut::test_loading",
            f"{REFUSALS}::TestWaitedOut::test_busy",
            f"{REFUSALS}::TestWaitedOut::test_paused",
        ),
    ),
    Fault(
        "a frozen store",
        (
            f"{LINK}::TestRedisInTrouble::test_frozen_it_costs_the_deadline_and_does_nothing_afterwards",
            f"{COMMIT}::test_what_a_frozen_server_comes_to_too_late_never_runs",
            f"{COMMIT}::test_a_server_that_freezes_between_the_phases_is_a_doubt_about_that_queue",
        ),
    ),
    Fault(
        "SCRIPT FLUSH",
        (
            f"{LINK}::TestScripts::test_a_forgotten_script_is_sent_again",
            f"{MEMBERS_REDIS}::TestBeating::test_a_forgotten_script_is_sent_again",
        ),
    ),
    Fault(
        "no memory left",
        (
            f"{MEMORY}::test_a_consumer_drains_a_full_store",
            f"{MEMORY}::test_a_commit_of_any_size_is_refused_whole_and_without_doubt",
            "tests/contract/test_capacity.py::TestCommit::test_a_server_without_memory_vetoes",
            f"{REFUSALS}::TestToldAtOnce::test_a_store_that_evicts_gives_no_lease",
        ),
    ),
    Fault(
        "no room on the disk",
        (
            f"{REFUSALS}::TestWaitedOut::test_misconf",
            "tests/contract/test_embedded.py::test_a_disk_that_is_full",
        ),
    ),
    Fault(
        "failover",
        (
            "tests/contract/test_sentinel.py::test_the_primary_fails_under_load",
            "tests/contract/test_durability.py::test_the_line_between_them_is_cut_and_then_the_primary_dies",
            f"{LINK}::TestRedisInTrouble::test_a_replica_is_waited_for_until_it_is_promoted",
            f"{REFUSALS}::TestWaitedOut::test_a_demoted_primary_is_connected_to_anew",
        ),
    ),
    Fault("Redis Cluster: MOVED, ASK, TRYAGAIN", (), "no cluster is supported yet; one hash tag per queue is prepared"),
    Fault(
        "keys of somebody else",
        (
            f"{BROKER_REDIS}::TestRefusals::test_a_key_of_somebody_else_names_the_remedy",
            "tests/acceptance/test_cli.py::test_a_key_of_somebody_else_ends_with_78_and_the_fix",
            "tests/acceptance/test_doctor.py::test_a_key_of_somebody_else",
        ),
    ),
    Fault(
        "a wrong password, missing rights, too many clients",
        (
            f"{LINK}::TestConnectionOptions::test_a_wrong_password_is_refused_at_once",
            f"{LINK}::TestConnectionOptions::test_missing_rights_are_refused_at_once",
            "tests/acceptance/test_cli.py::test_a_wrong_password_ends_with_78_and_does_not_show_it",
            f"{REFUSALS}::TestWaitedOut::test_too_many_clients",
        ),
    ),
    # The target.
    Fault(
        "nobody listens at the target, as during a deploy",
        (
            f"{OUTAGE}::TestDeploy::test_a_deploy_spends_no_attempt_keeps_the_order_and_fails_nothing",
            f"{CONSUMER}::TestTargetTrouble::test_a_target_that_was_down_is_tried_with_one_task",
            "tests/acceptance/test_deploy.py::test_a_connection_that_closes_before_the_task_begins_spends_no_attempt",
        ),
    ),
    Fault(
        "a target that never answers, dribbles, or never ends",
        (
            f"{HTTP}::TestOutcomes::test_what_does_not_come_in_time_is_a_timeout",
            f"{HTTP}::TestOutcomes::test_an_endless_answer_is_cut_off_at_the_timeout",
            "tests/acceptance/test_memory.py::test_over_http_nothing_of_a_response_is_kept",
        ),
    ),
    Fault(
        "a line to the target that breaks, or is slow, in any phase of a replay",
        ("tests/fault/test_broken_deliveries.py::test_in_each_phase",),
    ),
    Fault(
        "a target that closes its connections",
        (
            f"{HTTP}::TestHelpfulness::test_nothing_is_sent_twice_when_a_kept_connection_dies",
            f"{HTTP}::TestHelpfulness::test_a_kept_connection_that_was_closed_meanwhile_is_not_used",
        ),
    ),
    Fault(
        "a target that answers garbage",
        (
            f"{HTTP}::TestOutcomes::test_what_is_no_whole_answer_is_broken",
            f"{HTTP}::TestOutcomes::test_what_comes_before_the_answer_is_passed_over",
        ),
    ),
    Fault(
        "a target slower than its queue grows",
        (
            f"{CONSUMER}::TestLimit::test_never_more_than_the_limit",
            f"{CONSUMER}::TestLimit::test_the_records_in_flight_are_bounded_also_without_a_limit",
            "tests/contract/test_capacity.py::TestTasks::test_what_would_be_too_much_is_refused_whole",
            f"{OUTAGE}::TestRetryAfter::test_it_holds_for_the_whole_queue",
        ),
    ),
    Fault(
        "huge, binary and empty bodies",
        (
            f"{HTTP}::TestBytes::test_two_mebibytes_arrive_byte_for_byte",
            f"{HTTP}::TestBytes::test_an_empty_body_is_told",
            f"{HTTP}::TestBytes::test_whatever_add_accepts_is_sent_as_it_is",
        ),
    ),
    # Clocks and processes.
    Fault(
        "a clock that is set",
        (
            f"{REFUSALS}::TestClock::test_set_forward_no_push_is_late",
            f"{REFUSALS}::TestClock::test_set_back_it_is_noticed_in_passing",
            "tests/acceptance/test_doctor.py::test_the_clocks_differ",
        ),
    ),
    Fault(
        "a machine that sleeps",
        (
            f"{LIVENESS}::TestWatch::test_a_machine_that_sleeps_and_wakes_misjudges_nobody",
            f"{LIVENESS}::TestWatch::test_a_watcher_that_was_paused_has_to_watch_anew",
        ),
        "with real processes: a machine cannot send itself to sleep and wake up",
    ),
    Fault(
        "a producer killed between its two phases",
        (
            f"{OUTAGE}::TestProducer::test_killed_between_the_two_phases_it_leaves_a_doubt_that_a_consumer_tells",
            f"{BROKER}::TestTwoPhases::test_what_was_set_aside_as_in_doubt_is_queued_by_a_late_promotion",
            "tests/acceptance/test_doctor.py::test_prepared_tasks_are_in_doubt",
        ),
    ),
    Fault(
        "a fork after the import",
        (
            f"{COMMIT}::test_a_child_that_ends_does_not_cut_off_its_parent",
            "tests/acceptance/test_gunicorn.py::test_forked_workers_commit_and_refuse_what_the_other_has_started",
        ),
    ),
    Fault(
        "two releases at once",
        (f"{CONSUMER}::TestOutcomes::test_a_record_of_another_secret_or_release_is_parked",),
    ),
    Fault(
        "a backlog of a million",
        (
            f"{MEMBERS}::TestReclaiming::test_more_than_one_call_can_move",
            f"{BROKER}::TestResetting::test_a_large_queue_is_emptied_with_its_logs",
        ),
        "a million at a time: it takes minutes; make chaos TASKS=1000000 does it by hand",
    ),
)
