//! Guards that live in drivers, which are mirrored here, taken out one at a time: the simulation must notice each.

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    // The log's drivers.
    /// After the epoch has changed a mutation is answered without its purge in the new one.
    AppendsOnlyOnce,
    /// A mutation is answered as soon as its purge is in the log.
    WaitsForNobody,
    /// What is owed is answered without waiting for others' leases.
    AnswersWhatIsOwedAtOnce,
    /// What is owed stays alive here.
    OwesWithoutMarks,
    /// A joiner takes the log's end for its own without reading what lies before.
    JoinsWithoutReplay,
    /// A new epoch is not told of mutations under way.
    IntendsOnlyOnce,
    /// Who takes leave goes on answering.
    LeavesWithItsLease,
    // The exchange.
    /// No intent is recorded.
    IntendsNothing,
    /// Mutations end with their clients.
    ClientsCancelMutations,
    /// Shutdown does not wait for mutations.
    LeavesWithMutationsOpen,
    /// Unsafe methods are retried.
    RetriesMutations,
    /// A timeout or a 5xx counts as a refusal.
    UnknownPurgesNothing,
    /// A 409 counts as a refusal.
    ConflictPurgesNothing,
    /// An unknown value names nothing instead of its family.
    UnknownNamesNothing,
    /// A purge of a value does not name what carries none.
    ValuesWithoutWildcard,
    /// Only what the request says is purged.
    RequestTagsAlone,
    /// Only what the response says is purged.
    ResponseTagsAlone,
    /// The stamp is taken when the response has come.
    StampsLate,
    /// A freshened entry takes the stamp of the 304's arrival.
    FreshensLate,
    /// What is purged is revalidated by its Last-Modified, too.
    PurgedByLastModified,
    /// What is purged between look-up and stamp is revalidated as if it were live.
    TrustsValidators,
    /// The time of arrival is the last beat's.
    ArrivesEarly,
    /// Leases are not asked for.
    ReusesWithoutLease,
    /// Entries from Redis are not judged.
    TrustsRedis,
    /// A flight takes aboard whoever comes, and its landing is not judged.
    FollowsAnyFlight,
    /// Those without a lease follow flights that began before them.
    FollowsWithoutLease,
    /// A landing is not judged by the response's own tags.
    SharesUnjudged,
    /// A stale response stands in unjudged.
    StandsInUnjudged,
    /// Stale responses are served while revalidating, unjudged.
    ServesStaleUnjudged,
    /// Settling tags are stored.
    StoresWhatSettles,
    /// Settling tags are shared.
    SharesWhatSettles,
    /// What has settled may be stored before it is purged once more.
    EndsSettlingEarly,
    /// What has settled is purged again under rules that did not make its tags.
    SettlesInOtherWords,
    /// What one author lets go is let go by all.
    LetsGoWhatOthersHold,
    /// What has settled is not purged again.
    SettlesInSilence,
    /// Subjects share their entries.
    SharesAmongSubjects,
    /// Who would refuse forwards.
    ForwardsWhatItShouldRefuse,
    /// Purges fail open: what could not be confirmed is answered as if it were.
    AnswersTheUnconfirmed,
    /// Waits without end.
    WaitsForEver,
    /// Every miss takes off by itself.
    FliesTwice,
}
